"""What becomes of a case whose slide cannot be read."""

REFUSE = "refuse"  # the whole case is refused
OMIT = "omit"  # the slide is left out, if the bundle scores cases without one
UNUSABLE_SLIDE = (REFUSE, OMIT)
