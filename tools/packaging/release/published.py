"""The published versions in the manifest: their ARNs, and the page `docs/layers.md` for users of the layer."""

from collections.abc import Iterator, Sequence

from tools.common.errors import UsageError
from tools.packaging import PackagingError
from tools.packaging.manifest import PUBLIC, Manifest, Published

PAGE = "docs/layers.md"


def arns(manifest: Manifest, region: str, variant: str | None, account: str | None = None) -> list[Published]:
    """Return the published version of each variant in `region`, in the order of the variants.

    Args:
        variant: the name of one variant (None: all of them).
        account: that has published them (None: any).

    Raises:
        UsageError: there is no such variant.
        PackagingError: nothing is published there, or several accounts have published a variant there.
    """
    names = [each.name for each in manifest.variants]
    known = [*names, *sorted({entry.variant for entry in manifest.published} - set(names))]
    if variant is not None and variant not in known:
        raise UsageError(f"--variant {variant!r} is unknown, use one of {', '.join(known)}")
    entries = [
        entry for entry in manifest.published if variant in (None, entry.variant) and account in (None, entry.account)
    ]
    found = [entry for entry in entries if entry.region == region]
    if not found:
        regions = sorted({entry.region for entry in entries})
        where = f"it is published in {', '.join(regions)}" if regions else "publish it with ./build.sh publish"
        what = (f"the variant {variant}" if variant else "the layer") + (
            f" by the account {account}" if account else ""
        )
        raise PackagingError(f"layer-manifest.json lists nothing published in {region} for {what}: {where}")
    if len({entry.variant for entry in found}) < len(found):
        accounts = ", ".join(sorted({entry.account for entry in found}))
        raise PackagingError(f"several accounts have published in {region}, choose one with --account: {accounts}")
    return sorted(found, key=lambda entry: known.index(entry.variant))


def page(manifest: Manifest) -> bytes:
    """Return the page `docs/layers.md`."""
    parts = [_HEAD.format(name=manifest.name), _variants(manifest), _ARNS, *_tables(manifest), _PARAMETERS, _CHECKS]
    return "\n\n".join(part.strip("\n") for part in parts).encode() + b"\n"


_HEAD = """\
<!-- Written by ./build.sh layers-page from layer-manifest.json. -->

# Published layers

The layer `{name}` has these variants. Attach exactly one of them."""

_ARNS = """\
## ARNs

`./build.sh arn` prints an ARN from `layer-manifest.json`, and needs no AWS account:

```sh
./build.sh arn --region eu-central-1 --variant slim
```

The tables contain the newest published version of each variant. Older versions remain, unless `prune` deletes them;
their ARNs are in the history of this page."""

_PARAMETERS = """\
## The latest version

`./build.sh publish --ssm PREFIX` also writes parameters of AWS Systems Manager into the account that publishes:
`/PREFIX/VARIANT/VERSION`, which never changes, and `/PREFIX/VARIANT/latest`. With the prefix `layers/streaming`, for
example:

```sh
aws ssm get-parameter --name /layers/streaming/slim/latest --query Parameter.Value --output text
```

In a template of CloudFormation, `{{resolve:ssm:/layers/streaming/slim/latest}}` is the same ARN, read at each
deployment. Other accounts cannot read these parameters unless they are shared; use the ARN of a version there."""

_CHECKS = r"""
## How to verify a layer

The SHA-256 in the tables is that of the zip of a release. Lambda reports that of its copy, in base64:

```sh
LAYER=$(./build.sh arn --region eu-central-1 --variant slim)
aws lambda get-layer-version --region eu-central-1 --layer-name "${LAYER%:*}" --version-number "${LAYER##*:}" \
  --query Content.CodeSha256 --output text | base64 -d | od -An -v -tx1 | tr -d ' \n'
```

`./build.sh verify` does this for all entries, and compares names, permissions and content of each file.
`./build.sh verify-build layer-slim.zip` builds a zip of a release again from its commit, and compares the two: see
[releasing](releasing.md#verify-a-release). A signature becomes part of the zip: for a signed version, Lambda reports
the hash after signing, and the files besides the signature are those of the release."""


def _variants(manifest: Manifest) -> str:
    rows = [
        f"| `{each.name}` | {_joined(each.compatible_runtimes)} | {_joined(each.compatible_architectures)} |"
        for each in manifest.variants
    ]
    return "\n".join(["| variant | runtimes | architectures |", "|---|---|---|", *rows])


def _joined(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _tables(manifest: Manifest) -> Iterator[str]:
    if not manifest.published:
        yield "No version is published yet."
    order = {each.name: place for place, each in enumerate(manifest.variants)}
    variants = sorted({entry.variant for entry in manifest.published}, key=lambda name: (order.get(name, 99), name))
    for variant in variants:
        entries = [entry for entry in manifest.published if entry.variant == variant]
        rows = map(_row, sorted(entries, key=lambda entry: entry.place))
        head = ["| region | version | ARN | shared with | SHA-256 of the zip |", "|---|---|---|---|---|"]
        yield "\n".join([f"### {variant}", "", *head, *rows, *_bundled(entries), *_signed(entries)])


def _bundled(entries: Sequence[Published]) -> Iterator[str]:
    """Yield a second table, about what a self-contained layer contains."""
    known = [entry for entry in entries if entry.bundled or entry.libraries]
    if known:
        yield from ("", "| region | interpreter | libraries |", "|---|---|---|")
    for entry in sorted(known, key=lambda entry: entry.place):
        yield f"| {entry.region} | {entry.bundled or '-'} | {entry.libraries or '-'} |"


def _signed(entries: Sequence[Published]) -> Iterator[str]:
    """Yield another table, about the versions that are signed."""
    signed = [entry for entry in entries if entry.signedSha256]
    if signed:
        yield from ("", "| region | signed by | SHA-256 after signing |", "|---|---|---|")
    for entry in sorted(signed, key=lambda entry: entry.place):
        yield f"| {entry.region} | `{entry.signingProfileVersion}` | `{entry.signedSha256}` |"


def _row(entry: Published) -> str:
    shared = "everybody" if PUBLIC in entry.sharedWith else ", ".join(entry.sharedWith) or "nobody"
    return f"| {entry.region} | {entry.version} | `{entry.arn}` | {shared} | `{entry.sha256}` |"
