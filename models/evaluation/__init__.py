"""Measure a whole reader on films with known bone ages, and write what a hospital needs to judge it.

1. `cases` reads an archive (or readings made before) into one row a film and method.
2. `tables` turns the rows into figures: by sex, by year of age (P2, table 3), coverage, agreement.
3. `plots` draws Bland-Altman and reliability; `page` writes the report around them.
"""
