"""Read the bone age from a radiograph of the hand: pixels in, a Reading out.

In the order in which a film passes through them:

1. `image` holds a film, `regions` names its 22 regions; `pixels` loads DICOM, PNG and JPEG into an `Image`.
2. `detection` finds the regions, the side, the rotation and the polarity, and says why a film cannot be read.
3. `segmentation` outlines the distal radius and ulna.
4. `grading` gives each of the 13 RUS bones its RUS-CHN stage; `standards` turns stages into scores and bone ages.
5. `regression` estimates the bone age from the film as a whole.
6. `reader` runs 2 to 5 and returns a `reading.Reading`; `registry` finds and verifies the `bundles` of weights it runs on.
7. `training` runs each problem's training script; `evaluation` measures a reader; `site` and `calibration` fit one to a hospital's films.

`phantom` draws films with exact ground truth, `datasets` and `augment` feed the training scripts, `metrics` measures them; `refusal` is the
base of every error that says what cannot be used.
Nothing in this package knows a network, a queue, a database or a page; `import models` loads neither torch nor pydicom.
"""
