"""Picture file -> pixels; attention maps, patch grids and the page that explains a picture."""
