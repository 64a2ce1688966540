"""The suffixes, in lower case, by which slides, masks and tile features are recognised."""

SLIDE_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi", ".dcm")
MASK_SUFFIXES = (".tif", ".tiff", ".mha")
HDF5_SUFFIXES = (".h5", ".hdf5")
FEATURE_SUFFIXES = (*HDF5_SUFFIXES, ".pt")
