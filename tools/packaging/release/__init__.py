"""Releases: all zips of a version, with the documents by which others can check them.

Reading order:
    cli            the command line behind `./build.sh release`, `verify-build`, `arn` and `layers-page`
    release        checks the checkout, builds every zip, and writes the output folder
    readiness      finds everything that a release lacks, in the checkout and on this machine
    rebuild        builds a zip again from its provenance; `comparison` lists the differences
    notes          the release notes; `changelog` reads the section of a version
    provenance     the in-toto statement with the SLSA predicate
    spdx           the SBOM in SPDX 2.3; `cyclonedx` the one in CycloneDX 1.6
    contents       the content of an SBOM: the files of a zip, its CPython and the libraries in it
    libraries      the libraries of a CPython, with version, license, purl and CPE
    published      the published versions in the manifest: their ARNs, and the page docs/layers.md
    git            reads the repository of the checkout

Imports point downwards, and to the modules of `tools.packaging` that build.
"""
