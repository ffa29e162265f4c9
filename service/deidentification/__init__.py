"""De-identify by PS3.15 Annex E, in the order a data set passes through.

1. `confidentiality` loads the standard's table and a profile (`profiles/`): what happens to which attribute.
2. `deidentify` walks a data set, at every depth, and writes the copy; `actions` does to one element what the profile says, with
   `dates` shifted per patient, `identifiers` swept from the text that is kept and `native_pixels` rewritten.
3. `folder` does it to whole folders, `statement` writes down what the profile does.
"""
