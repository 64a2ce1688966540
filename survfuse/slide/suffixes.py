"""By which endings, in lower case, files are taken for slides, masks and tile features."""

SLIDE_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs")
MASK_SUFFIXES = (".tif", ".tiff", ".mha")
FEATURE_SUFFIXES = (".h5", ".pt")
