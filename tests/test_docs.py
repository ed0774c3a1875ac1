"""The pages say what is true: their examples run, their commands and links exist, their tables are complete."""

import ast
import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import markdown
import numpy as np
import pytest
import torch
import typer
from PIL import Image

from regard.attention import MECHANISMS
from regard.checkpoint import download
from regard.cli import app
from regard.models import MODELS, create_model, save_weights

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
COMMENT = re.compile(r".*?[^\s#].*?  # (.+)")
SHAPE = re.compile(r"\[(\d+(?:, \d+)*)\](?: each)?")
COMMANDS = typer.main.get_command(app).commands
SLOW = tuple(f"docs/guides/{name}.md" for name in ("train", "freeze", "finetune", "distill"))  # train, or compile
SHOWN = 100  # columns of a code block that fit beside the navigation at 1280 pixels

sys.path.append(str(ROOT / "docs"))
import extension  # noqa: E402  # scripts of the docs, no package
import origin  # noqa: E402
import tables  # noqa: E402


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page):
    for name in re.findall(r"`(tests/[\w/.]+)`", (ROOT / page).read_text()):
        assert (ROOT / name).exists(), name


def blocks(page, *languages):
    return [text for language, text in BLOCK.findall((ROOT / page).read_text()) if language in languages]


def published(source, folder):
    """Write random weights as the file that `source` stands for, in its naming."""
    for name, variant in MODELS.items():
        for word, weights in variant.weights.items():
            if weights.source == source:
                path = folder / (source.rsplit("/", 1)[1].removesuffix(".pth") + ".pth")
                save_weights(create_model(name), path, naming=word.split("_")[0])
                return path
    raise LookupError(source)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader's folder with photos in it, and published weights without a network."""

    class Response(io.BytesIO):
        status = 200
        headers = {}  # noqa: RUF012

    colors = {"cat": (200, 120, 40), "dog": (60, 90, 200)}
    noise = np.random.default_rng(0)
    for name, color in colors.items():
        for index in range(8):
            pixels = np.array(color) * noise.uniform(0.6, 1, (24, 24, 3))
            path = tmp_path / "photos" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        Image.open(path).save(tmp_path / f"{name}.jpg")
    monkeypatch.setattr(
        download,
        "urlopen",
        lambda request, timeout: Response(published(request.full_url, tmp_path).read_bytes()),
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: str(published(f"hf://{name}", tmp_path)))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))  # `install()` puts a finder there
    monkeypatch.chdir(tmp_path)
    before, threads = torch.hub.get_dir(), torch.get_num_threads()
    torch.hub.set_dir(tmp_path / "hub")
    torch.set_num_threads(1)
    yield tmp_path
    torch.hub.set_dir(before)
    torch.set_num_threads(threads)
    for name in [name for name in sys.modules if name.split(".")[0] == "natten"]:
        del sys.modules[name]


def shapes_of(value):
    if isinstance(value, torch.Tensor):
        return [list(value.shape)]
    if isinstance(value, torch.Size):
        return [list(value)]
    return [shape for each in value for shape in shapes_of(each)]


def execute(statement, names):
    """Execute a statement; return its value, or that of the names it assigns, and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if isinstance(statement, ast.Expr):
            return eval(ast.unparse(statement.value), names), printed.getvalue()
        exec(ast.unparse(statement), names)
    value = eval(ast.unparse(statement.targets[0]), names) if isinstance(statement, ast.Assign) else None
    return value, printed.getvalue()


def check_comment(comment, value, printed):
    """Compare what a line says of its result: the text that it prints, a shape, or a number."""
    if printed:
        assert printed.strip() == comment
    elif shape := SHAPE.fullmatch(comment):
        expected = [int(size) for size in shape[1].split(",")]
        assert {tuple(found) for found in shapes_of(value)} == {tuple(expected)}
    elif re.fullmatch(r"\d+(\.\d+)?", comment):
        assert float(value) == pytest.approx(float(comment))


def examples():
    for page in PAGES:
        if blocks(page, "python"):
            yield pytest.param(page, marks=[pytest.mark.exhaustive] if page in SLOW else [], id=page)


@pytest.mark.parametrize("page", list(examples()))
def test_examples_run(page, reader):
    torch.manual_seed(0)
    names = {}
    for source in blocks(page, "python"):
        lines = source.splitlines()
        for statement in ast.parse(source).body:
            value, printed = execute(statement, names)
            if comment := COMMENT.fullmatch(lines[statement.end_lineno - 1]):
                check_comment(comment[1], value, printed)


def test_the_check_of_comments_fails_where_it_should():
    for statement, comment in (("torch.zeros(2, 3)", "[3, 2]"), ("torch.ones(2).sum()", "3"), ("print('a')", "b")):
        value, printed = execute(ast.parse(statement).body[0], {"torch": torch})
        with pytest.raises(AssertionError):
            check_comment(comment, value, printed)


def commands():
    """Every command of regard on the pages, without the output that follows it."""
    for page in PAGES:
        for text in blocks(page, "", "bash", "console"):
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True) if re.match(r"(\$ )?regard ", line) else []
                if words:
                    yield pytest.param(words[1], words[2:], id=f"{page}: {' '.join(words)}")


@pytest.mark.parametrize(("verb", "arguments"), list(commands()))
def test_commands_exist(verb, arguments):
    command = COMMANDS[verb]
    context = command.context_class(command, info_name=verb)
    command.make_parser(context).parse_args(args=list(arguments))  # raises on options that do not exist


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    text = BLOCK.sub("", (ROOT / page).read_text())
    links = [link or source for link, source in LINK.findall(text)]
    relative = [link.split("#")[0] for link in links if not re.match(r"\w+:|#", link)]
    missing = [link for link in relative if not ((ROOT / page).parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/") or page == "README.md"])
def test_code_fits_its_block(page):
    lines = [line for _, text in BLOCK.findall((ROOT / page).read_text()) for line in text.splitlines()]
    assert not [line for line in lines if len(line) > SHOWN]


def test_readme_has_the_mechanism_table():
    text = (ROOT / "README.md").read_text()
    assert tables.with_table(text, "docs/mechanisms/") == text, "renew it: python docs/tables.py"


def test_mechanism_table_is_complete():
    table = tables.mechanism_table("mechanisms/")
    for mechanism in MECHANISMS:
        row = next(line for line in table.splitlines() if f"(mechanisms/{mechanism.name}.md)" in line)
        assert mechanism.origin in row and mechanism.summary in row.replace(tables.NO_BREAK_HYPHEN, "-")
        assert all(f"`{module.__name__}`" in row for module in mechanism.modules)


@pytest.mark.parametrize(
    ("page", "folder"),
    [("docs/index.md", "mechanisms/"), ("docs/mechanisms/index.md", "./"), ("docs/guides/scale.md", "")],
)
def test_tables_are_filled_in(page, folder):
    source = (ROOT / page).read_text()
    filled = markdown.markdown(source, extensions=["tables", extension.Tables()])
    table = tables.mechanism_table(folder) if folder else tables.scale_table()
    assert table in extension.fill(source) and "<!--" not in filled and "<td>" in filled
    links = re.findall(rf"\]\(({re.escape(folder)}\w+\.md)\)", table) if folder else []
    assert all(((ROOT / page).parent / link).is_file() for link in links)
    assert len(links) == (len(MECHANISMS) if folder else 0)


def test_scale_table_has_the_sizes_of_the_models():
    """A ring over 8 processes sends 2 * 7/8 of the gradients; weights, two moments and an average are 16 bytes each."""
    rows = tables.scale_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(tables.SCALED)
    for name, row in zip(tables.SCALED, rows, strict=True):
        cells = [float(cell.replace(",", "")) for cell in row.split("|")[2:-1]]
        parameters = MODELS[name].parameters
        assert cells[0] == parameters and cells[1] == round(7 * parameters / 1e6)
        assert cells[-1] == round(16 * parameters / 1e6)


def test_navigation_lists_every_page():
    listed = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_mechanisms_have_a_page(mechanism):
    text = (ROOT / "docs" / "mechanisms" / f"{mechanism.name}.md").read_text()
    assert mechanism.function.__name__ in text and mechanism.weights.__name__ in text
    assert all(module.__name__[:-2] in text for module in mechanism.modules)
    assert mechanism.paper in text


ASSETS = ROOT / "docs" / "assets"


def drawn(folder, *options):
    """Draw pictures into a folder; return them, and the kept ones, as arrays by their relative paths."""
    subprocess.run([sys.executable, ROOT / "docs" / "pictures.py", folder, *options], check=True)
    for path in sorted(folder.rglob("*.png")):
        name = path.relative_to(folder)
        yield name.as_posix(), *(np.asarray(Image.open(file).convert("RGBA"), float) for file in (path, ASSETS / name))


def check_drawn(pictures):
    """Compare pictures up to what fonts and rounding may change."""
    for name, new, kept in pictures:
        assert new.shape == kept.shape, name
        assert np.abs(new - kept).mean() < 2, f"{name} differs from the picture that is kept; run make pictures"


def test_a_picture_is_drawn(tmp_path):
    pictures = list(drawn(tmp_path, "--only", "bias"))
    assert [name for name, *_ in pictures] == ["gallery/bias.png"]
    check_drawn(pictures)


@pytest.mark.exhaustive
def test_all_pictures_are_drawn(tmp_path):
    pictures = list(drawn(tmp_path))
    kept = [*ASSETS.glob("mechanisms-*.png"), *ASSETS.glob("gallery/*.png")]
    assert {name for name, *_ in pictures} == {path.relative_to(ASSETS).as_posix() for path in kept}
    check_drawn(pictures)


@pytest.mark.exhaustive
def test_pictures_show_trained_weights(tmp_path):
    for name in ("swin_tiny_patch4_window7_224", "swiftformer_xs", "mobilevitv2_050"):
        save_weights(create_model(name), tmp_path / f"{name}.safetensors")
    for mechanism, name in (
        ("window", "swin_tiny_patch4_window7_224"),
        ("efficient-additive", "swiftformer_xs"),
        ("separable", "mobilevitv2_050"),
    ):
        checkpoint = f"{name}={tmp_path / name}.safetensors"
        ((_, new, kept),) = drawn(tmp_path / mechanism, "--only", mechanism, "--checkpoint", checkpoint)
        assert new.shape == kept.shape and np.abs(new - kept).mean() > 2


def test_gallery_shows_all_its_pictures():
    text = (ROOT / "docs" / "guides" / "gallery.md").read_text()
    shown = re.findall(r"!\[[^\]]{20,}\]\(\.\./assets/gallery/([\w-]+\.png)\)", text)
    files = list(ASSETS.glob("gallery/*"))
    assert sorted(shown) == sorted(path.name for path in files)
    assert sum(path.stat().st_size for path in files) < 2e6


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://example.org/team/regard.git", "https://example.org/team/regard"),
        ("https://name:secret@example.org/team/regard.git", "https://example.org/team/regard"),
        ("git@example.org:team/regard.git", "https://example.org/team/regard"),
        ("ssh://git@example.org/team/regard", "https://example.org/team/regard"),
        ("/srv/git/regard.git", ""),
        ("../regard", ""),
        ("", ""),
    ],
)
def test_repository_link(remote, address):
    assert origin.web_address(remote) == address
