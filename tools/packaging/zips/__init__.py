"""Function and layer zips.

    archive        packs entries into a zip, and checks a zip against the limits of AWS Lambda
    function       the files of a function folder
    layer          the files of `layer/` that the manifest lists
    bytecode       the layer's `.pyc` files; `compile_tree` is the program that each Python runs for it
    pythons        finds the Pythons of this machine, and runs them
    output         writes the output folder: zips, `SHA256SUMS` and `INTERPRETERS`

Imports: `bytecode` imports `pythons`; `bytecode`, `function` and `layer` import `archive`; `output` imports none of
them. `compile_tree` is never imported.
"""
