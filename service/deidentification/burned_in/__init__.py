"""Take text out of the pixels of a film, in the order the film passes through.

1. `hand` finds the hand from the pixels; `surround` blanks everything outside it with the local background level.
2. `strokes` says where small writing may be, `recogniser` finds and reads text by way of `networks`, whose `weights` are loaded
   apart, `words` knows what the header says of the patient.
3. `inpainting` fills what was found; `cleaning` tells the whole story, looks again and reports what is left.
"""
