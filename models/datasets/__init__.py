"""Read what the training scripts learn from; every fault names the file, the line and the value.

1. `faults` is the one error of this package; `documents` opens text, JSON, tables and films with it.
2. `phantom` keeps drawn films in a cache folder; `rsna` reads the RSNA films, thumbnails and boxes from a folder outside the tree.
3. `archive` reads a hospital's own films: a folder with `films.csv`; `readings` what a bundle read of them.
4. `labelimg` reads VOC XML boxes, `labelme` JSON outlines, `coco` both from one JSON file.
5. `outlines/` holds our own outlines of radius and ulna on real films, without the films (its README says how they were drawn).
6. `splits` keeps which patient belongs to which part in a small CSV file, so that no patient is on both sides.
"""
