"""Outline the distal radius and ulna (DRU), the bones whose growth plates close last.

1. `crop` cuts the DRU out of a film by the detector's two boxes, upright and with the radius on the right.
2. `network` holds the architectures: the default U-Net and the five fully convolutional variants of P1.
3. `data` keeps crops of phantoms with their outlines in a cache; `train`, `evaluate` are the scripts.
4. `predict` outlines the bones of one film.
"""
