"""From any checkpoint to a model and back: exact for equal shapes, as the authors and timm resize for others."""

import copy
import warnings
from functools import partial

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch.nn.functional import interpolate

from budget import assert_within_budget, truth
from regard.checkpoint import export_state
from regard.errors import CheckpointError, OptionError, ShapeError
from regard.models import MODELS, create_model, identify, load_weights, save_weights, variants_of
from regard.models._families import family_of

from .networks import SMALL, small

DISTILLED = "deit_tiny_distilled_patch16_224"
SWIN = "swin_tiny_patch4_window7_224"
NAMINGS = [(name, naming) for name in SMALL for naming in ("regard", *(each.name for each in small(name).namings))]


def drawn(name, **options):
    """Build a small model whose every tensor is random, so that no two could be exchanged unnoticed."""
    model = small(name, **options)
    generator = torch.Generator().manual_seed(2)
    state = model.state_dict()
    model.load_state_dict(
        {
            key: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor + 7
            for key, tensor in state.items()
        }
    )
    return model


def required(name, naming):
    """Return the options without which a model cannot be written in a naming."""
    return {"token_norm": "ones"} if name.startswith("swiftformer") and naming == "hf" else {}


def assert_equal(model, expected):
    state = model.state_dict()
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor), name


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Answer each download with a file; return its path and the requested sources."""
    asked = []

    def answer(source):
        asked.append(source)
        return tmp_path / "published.safetensors"

    monkeypatch.setattr("regard.models._loading.fetch", answer)
    return tmp_path / "published.safetensors", asked


class TestNamings:
    """Every naming of every family."""

    @pytest.mark.parametrize(("name", "naming"), NAMINGS)
    def test_there_and_back(self, name, naming, tmp_path):
        options = required(name, naming)
        model, other = drawn(name, **options), small(name, **options)
        save_weights(model, tmp_path / "net.safetensors", naming=naming)
        report = load_weights(other, tmp_path / "net.safetensors")
        assert_equal(other, model.state_dict())
        assert report.tensors == len(model.state_dict()) and not report.kept and not report.resized
        assert identify(export_state(model, naming)).family is type(model)

    @pytest.mark.parametrize(
        "name", [*(name for name in SMALL if name != "nat_nano"), "nat_base", "dinat_mini", "vitrpb_small"]
    )
    def test_the_naming_is_recognized(self, name):
        for naming in ("regard", *(each.name for each in family_of(name).name_tensors(MODELS[name].config))):
            with torch.device("meta"):
                model = create_model(name, **required(name, naming))
            state = export_state(model, naming)
            found = identify(state).naming
            names = set(state) ^ set(export_state(model, found))
            assert all(name.endswith(("mask", "index")) for name in names)  # either is right where names agree

    @pytest.mark.one_parameter
    @pytest.mark.parametrize("name", ["swiftformer_xs", "vitrpb_small", SWIN, DISTILLED, "cait_xxs24_224"])
    def test_variants_of(self, name):
        model = create_model(name, num_classes=3, in_chans=2)
        for naming in ("regard", "official"):
            assert name in [found for found, _ in variants_of(export_state(model, naming))]

    def test_variants_of_no_published_size(self):
        with pytest.raises(
            CheckpointError, match="a Swin checkpoint in the naming of official, but of no published size"
        ):
            variants_of(export_state(small(SWIN), "official"))

    def test_swin_buffers_are_the_authors(self):
        """Computed as timm computes them from the same code."""
        options = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "img_size": 112}
        upstream = timm.create_model(SWIN, **options)
        state = export_state(create_model(SWIN, **options), "official")
        masks = {
            name: each for name, each in upstream.named_buffers() if name.endswith("attn_mask") and each is not None
        }
        indices = {name: each for name, each in upstream.named_buffers() if name.endswith("relative_position_index")}
        assert set(masks) == {"layers.0.blocks.1.attn_mask", "layers.1.blocks.1.attn_mask"} and len(indices) == 4
        for name, buffer in (masks | indices).items():
            assert state[name].dtype == buffer.dtype and torch.equal(state[name], buffer), name
        assert {name for name in state if "mask" in name or "index" in name} == set(masks) | set(indices)

    def test_index_of_vitrpb(self):
        """Position [q, k] holds the row-major place of key minus query in the table."""
        state = export_state(create_model("vitrpb_small", depth=1, embed_dim=32, num_heads=1), "official")
        index = state["layers.0.attn.relative_position_index"]
        assert index.shape == (196, 196) and state["layers.0.attn.rpb"].shape == (1, 27, 27)
        other = create_model("vitrpb_small", depth=1, embed_dim=32, num_heads=1)
        assert load_weights(other, state).ignored == ("layers.0.attn.relative_position_index",)
        for query, key in ((0, 0), (0, 195), (195, 0), (17, 90)):
            rows, columns = key // 14 - query // 14, key % 14 - query % 14
            assert index[query, key] == (rows + 13) * 27 + columns + 13

    def test_neighborhoods_have_no_index(self):
        state = export_state(create_model("nat_isotropic_small", depth=1), "official")
        assert not any("index" in name for name in state)


class TestSources:
    """Where weights come from."""

    def test_file_and_state_dict(self, tmp_path):
        trained = drawn("nat_nano")
        save_weights(trained, tmp_path / "net.pth", naming="hf")
        for source in (
            tmp_path / "net.pth",
            str(tmp_path / "net.pth"),
            trained.state_dict(),
            {"model": trained.state_dict()},
        ):
            assert_equal(create_model("nat_nano", num_classes=10, weights=source), trained.state_dict())

    def test_published_word(self, published):
        file, asked = published
        trained = create_model("mobilevitv2_050")
        save_weights(trained, file, naming="official")
        model = create_model("mobilevitv2_050", weights="official_384")
        assert_equal(model, trained.state_dict())
        assert asked == [MODELS["mobilevitv2_050"].weights["official_384"].source]
        assert model.preprocessing.image_size == 384 and model.training

    def test_hub_id_and_url(self, published):
        file, asked = published
        trained = drawn("nat_nano")
        save_weights(trained, file)
        for source in ("somebody/nat-nano.v1", "https://host/net.pth", "hf://owner/net"):
            assert_equal(create_model("nat_nano", num_classes=10, weights=source), trained.state_dict())
        assert asked == ["hf://somebody/nat-nano.v1", "https://host/net.pth", "hf://owner/net"]

    def test_unknown_word(self):
        with pytest.raises(OptionError, match="unknown weights of nat_mini 'oficial'; did you mean 'official'"):
            create_model("nat_mini", weights="oficial")

    def test_google_drive(self):
        with pytest.raises(CheckpointError, match=r"https://drive\.google\.com/.* by hand"):
            create_model("swiftformer_xs", weights="official")

    def test_new_classifier_for_other_classes(self, published):
        trained = create_model("mobilevitv2_050")
        save_weights(trained, published[0], naming="timm")
        model = create_model("mobilevitv2_050", weights="timm", num_classes=5)
        assert model.head.weight.shape == (5, 256) and not model.head.bias.any()
        assert torch.equal(model.stem.conv.weight, trained.stem.conv.weight)

    def test_no_classifier(self, published):
        trained = create_model(DISTILLED, depth=1)
        save_weights(trained, published[0], naming="hf")
        model = create_model(DISTILLED, depth=1, weights="hf", num_classes=0).eval()
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 192)
        assert torch.equal(model.dist_token, trained.dist_token)

    def test_a_file_needs_its_own_number_of_classes(self, tmp_path):
        save_weights(drawn("nat_nano"), tmp_path / "net.pth")
        with pytest.raises(CheckpointError, match=r"head\.weight \(expected \[3, 128\], got \[10, 128\]\)"):
            create_model("nat_nano", weights=tmp_path / "net.pth", num_classes=3)
        model = create_model("nat_nano", num_classes=3)
        assert load_weights(model, tmp_path / "net.pth", new_classifier=True).kept == ("head.weight", "head.bias")


class TestGenerationsOfSwiftFormer:
    """Names and shapes do not tell them apart, but those with Hugging Face's names are of the first."""

    @pytest.fixture
    def state(self):
        return export_state(create_model("swiftformer_nano", token_norm="ones", num_classes=10), "hf")

    def test_set_from_the_naming(self, state, published):
        assert create_model("swiftformer_nano", num_classes=10, weights=state).config.token_norm == "ones"
        save_weights(create_model("swiftformer_xs", token_norm="ones"), published[0], naming="hf")
        assert create_model("swiftformer_xs", weights="hf").config.token_norm == "ones"

    def test_said_otherwise(self, state):
        with pytest.warns(UserWarning, match="trained with token_norm='ones'; the model has 'l2'"):
            model = create_model("swiftformer_nano", num_classes=10, weights=state, token_norm="l2")
        assert model.config.token_norm == "l2"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            create_model("swiftformer_nano", num_classes=10, weights=state, token_norm="ones")

    def test_others_are_of_the_second(self):
        state = export_state(create_model("swiftformer_nano", num_classes=10), "official")
        assert create_model("swiftformer_nano", num_classes=10, weights=state).config.token_norm == "l2"

    def test_not_written_for_code_that_computes_something_else(self, tmp_path):
        with pytest.raises(CheckpointError, match="compute token_norm='ones', this model computes 'l2'"):
            save_weights(create_model("swiftformer_nano"), tmp_path / "net.pth", naming="hf")
        assert not list(tmp_path.iterdir())

    def test_not_written_for_timm(self, tmp_path):
        with pytest.raises(CheckpointError, match="token_norm"):
            save_weights(create_model("swiftformer_nano", token_norm="ones"), tmp_path / "net.pth", naming="timm")


class TestOtherSizes:
    """What is carried over to another size, as the authors and timm do."""

    @pytest.mark.parametrize("name", SMALL)
    @pytest.mark.parametrize("in_chans", [1, 5])
    def test_channels(self, name, in_chans):
        trained = drawn(name)
        model = small(name, in_chans=in_chans)
        first = f"{model.first_conv}.weight"
        report = load_weights(model, trained.state_dict())
        expected = truth(partial(adapt_input_conv, in_chans), trained.state_dict()[first])
        assert report.resized == (first,)
        assert_within_budget(model.state_dict()[first], expected)

    def test_channels_of_neither_number(self):
        with pytest.raises(CheckpointError, match=r"patch_embed\.proj\.0\.weight \(expected \[16, 4, 3, 3\], got"):
            load_weights(small("nat_nano", in_chans=4), small("nat_nano", in_chans=2).state_dict())

    @pytest.mark.parametrize(("name", "prefix"), [(DISTILLED, 2), ("cait_xxs24_224", 0)])
    @pytest.mark.parametrize("img_size", [8, 24, 64])
    def test_position_embedding(self, name, prefix, img_size):
        trained = drawn(name)
        model = small(name, img_size=img_size)
        report = load_weights(model, export_state(trained, "timm"))
        expected = resample_abs_pos_embed(trained.pos_embed, [img_size // 4] * 2, [4, 4], num_prefix_tokens=prefix)
        assert report.resized == ("pos_embed",)
        assert torch.equal(model.pos_embed, expected)  # the same operation of torch on the same layout

    @pytest.mark.parametrize("naming", ["official", "timm", "hf"])
    def test_swin_window(self, naming):
        trained = drawn(SWIN)
        model = small(SWIN, window_size=6, img_size=48)
        report = load_weights(model, export_state(trained, naming))
        assert len(report.resized) == 6 and all(name.endswith("_bias_table") for name in report.resized)
        for name in report.resized:
            table = trained.state_dict()[name]  # [(2 * 3 - 1)**2, nh]
            image = table.T.reshape(1, -1, 5, 5)
            expected = interpolate(image, size=(11, 11), mode="bicubic").flatten(2)[0].T
            assert torch.equal(model.state_dict()[name], expected)

    def test_swin_at_another_image_size(self):
        trained = drawn(SWIN)
        model = small(SWIN, img_size=48)
        assert load_weights(model, export_state(trained, "official")).resized == ()
        assert_equal(model, trained.state_dict())
        masks = {name: tensor.shape[0] for name, tensor in export_state(model, "official").items() if "mask" in name}
        assert masks["layers.0.blocks.1.attn_mask"] == (24 // 3) ** 2  # windows at the new size

    @pytest.mark.parametrize("name", ["nat_nano", "dinat_s_tiny", "nat_isotropic_small"])
    def test_kernel_size(self, name):
        trained = drawn(name)
        model = small(name, kernel_size=5)
        report = load_weights(model, export_state(trained, "official"))
        assert report.resized and all(key.endswith(".rpb") for key in report.resized)
        for key in report.resized:
            expected = interpolate(trained.state_dict()[key][None], size=(9, 9), mode="bicubic")[0]
            assert torch.equal(model.state_dict()[key], expected)


def without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


BROKEN = {
    "missing": (without("norm.bias"), r"1 missing: norm\.bias"),
    "left over": (lambda state: state | {"extra.weight": torch.zeros(2)}, r"1 left over: extra\.weight"),
    "misshapen": (
        lambda state: state | {"norm.bias": torch.zeros(3)},
        r"1 of another shape: norm\.bias \(expected \[128\], got \[3\]\)",
    ),
    "table that is no window": (
        lambda state: state | {"levels.0.blocks.0.attn.rpb": torch.zeros(25)},
        r"levels\.0\.blocks\.0\.attn\.rpb",
    ),
    "table of other heads": (
        lambda state: state | {"levels.0.blocks.0.attn.rpb": torch.zeros(3, 7, 7)},
        r"levels\.0\.blocks\.0\.attn\.rpb \(expected \[2, 5, 5\], got \[3, 5, 5\]\)",
    ),
    "table of no window": (
        lambda state: state | {"levels.0.blocks.0.attn.rpb": torch.zeros(2, 0, 0)},
        r"levels\.0\.blocks\.0\.attn\.rpb \(expected \[2, 5, 5\], got \[2, 0, 0\]\)",
    ),
    "NaN": (
        lambda state: state | {"norm.bias": torch.full((128,), torch.nan)},
        r"1 not finite in the model's dtype: norm\.bias",
    ),
    "no tensors": (lambda state: {}, "must map names to tensors"),
}


class TestBadInput:
    """What is refused, and that the model is then as it was."""

    @pytest.fixture
    def model(self):
        model = drawn("nat_nano")
        before = copy.deepcopy(model.state_dict())
        yield model
        assert_equal(model, before)

    @pytest.mark.parametrize(("breakage", "message"), BROKEN.values(), ids=BROKEN)
    def test_tensors(self, model, breakage, message):
        state = breakage(small("nat_nano").state_dict())
        with pytest.raises(CheckpointError, match=message):
            load_weights(model, state)

    @pytest.mark.parametrize(
        ("name", "naming"),
        [(name, "official") for name in (SWIN, "mobilevitv2_050", "cait_xxs24_224", "dinat_s_tiny")]
        + [(SWIN, "timm"), ("mobilevitv2_050", "hf"), (DISTILLED, "hf")],
    )
    def test_another_model(self, model, name, naming):
        what = f"This is a {family_of(name).__name__} checkpoint in the naming of"
        with pytest.raises(CheckpointError, match=rf"\n{what} (\w+ and )?{naming}"):
            load_weights(model, export_state(small(name), naming))

    def test_a_model_of_nobody(self, model):
        with pytest.raises(CheckpointError, match=r"2 left over: a, b") as error:
            load_weights(model, {"a": torch.zeros(1), "b": torch.zeros(1)})
        assert "This is" not in str(error.value)

    def test_another_variant(self, model):
        with pytest.raises(CheckpointError, match=r"missing.*\n.*(\n.*)*This is a Nat checkpoint"):
            load_weights(model, create_model("nat_nano", depths=(1, 1, 1), num_classes=10).state_dict())

    @pytest.mark.parametrize("suffix", ["safetensors", "pth"])
    def test_truncated_file(self, model, suffix, tmp_path):
        path = tmp_path / f"net.{suffix}"
        save_weights(small("nat_nano"), path)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(CheckpointError, match=r"cannot be read as plain tensors.*download it again"):
            load_weights(model, path)

    def test_pickle_with_code(self, model, tmp_path, capsys):
        torch.save({"model": small("nat_nano").state_dict(), "hook": Payload()}, tmp_path / "net.pth")
        with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
            load_weights(model, tmp_path / "net.pth")
        assert "code of the file ran" not in capsys.readouterr().out

    def test_no_averaged_weights(self, model):
        with pytest.raises(CheckpointError, match="holds no averaged weights"):
            load_weights(model, {"model": small("nat_nano").state_dict()}, ema=True)

    def test_position_embedding_of_another_width(self):
        model = drawn(DISTILLED)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(CheckpointError, match=r"pos_embed \(expected \[1, 18, 32\], got \[1, 18, 16\]\)"):
            load_weights(model, model.state_dict() | {"pos_embed": torch.zeros(1, 18, 16)})
        assert_equal(model, before)


class Payload:
    def __reduce__(self):
        return (print, ("code of the file ran",))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("word", ["model", "state_dict", "model_ema"])
def test_wrapped(word, prefix):
    trained = drawn("nat_nano")
    wrapped = {word: {prefix + name: tensor for name, tensor in export_state(trained, "official").items()}, "epoch": 1}
    model = small("nat_nano")
    load_weights(model, wrapped, ema=word == "model_ema")
    assert_equal(model, trained.state_dict())


def test_in_chans_is_checked_first():
    with pytest.raises(ShapeError, match="in_chans must be at least 1"):
        create_model("nat_nano", in_chans=0, weights=small("nat_nano").state_dict())
