"""One TOML file for each data set that is known by name; read through `vsodpipe.catalogue`."""
