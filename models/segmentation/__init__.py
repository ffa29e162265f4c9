"""Outline the distal radius and ulna (DRU), the bones whose growth plates close last.

1. `crop` cuts the DRU out of a film by the detector's two boxes, upright and with the radius on the right.
2. `network` names the architectures and holds the default, a U-Net; `fcn` has the five networks of P1, `encoder_decoder` and
   `monai_networks` those of P3, `classical` its methods without a network.
3. `data` keeps crops of phantoms with their outlines in a cache; `losses`, `train` and `evaluate` are the scripts and their parts.
4. `predict` outlines the bones of one film, by a U-Net as `served` has it; `held_back` measures it on outlines of one's own.
"""
