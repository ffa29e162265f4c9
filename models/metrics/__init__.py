"""Measure readings against what is known, each number with its interval.

1. `ages` compares bone ages: MAE, RMSE, share within a year, Bland-Altman; a case without a prediction counts as missed.
2. `bootstrap` gives the 95 % interval of any of them, resampling patients.
3. `overlap` compares boxes and masks: IoU, Dice, precision and recall.
4. `conformal` builds intervals that cover a stated share of films, by sex and age band, and measures their coverage.
"""
