"""The CPython of a self-contained layer: from the pinned archive to the files below `/opt/cpython`.

    pins           updates the pins in the manifest
    download       fetches archives, into a cache
    source_tree    reads an archive or a folder as a tree of files
    elf            reads the headers of ELF files
    trim           decides which files a function on AWS Lambda needs
    compatibility  checks that the ELF files run on an OS-only runtime
    bundle         trims and checks a tree, and starts its interpreter where this machine can

Imports: `bundle` imports `source_tree`, `trim` and `compatibility`, which imports `elf`.
"""
