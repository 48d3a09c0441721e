from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
import yaml

from rapid_dist.errors import InputError, SpecError
from rapid_dist.specs import RunSpec, load_spec, parse_spec
from rapid_dist.storage.digest import digest_of

TEXT = """
data: {private: p, public: q, num_classes: 3}
privacy: {target_epsilon: 2, target_delta: 1e-5, sample_rate: 0.05, nominal_size: 1000}
"""
VOTES = "privacy.votes_noise_multiplier=5.0"

# One other legal value for each section: enough to see whether the digest covers it.
OTHER_VALUES = {
    "data": "data.public=other",
    "privacy": "privacy.target_epsilon=3",
    "name": "name=other",
    "autoencoder": "autoencoder.width=7",
    "denoiser": "denoiser.width=7",
    "schedule": "schedule.split_step=7",
    "pretrain": "pretrain.seed=7",
    "extractor": "extractor.width=7",
    "knowledge_base": "knowledge_base.label_map={1: 2}",
    "statistics": "statistics.clip_norm=7",
    "training": "training.seed=7",
    "sampling": "sampling.seed=7",
    "evaluation": "evaluation.seed=7",
}
DIGEST = "56cd7d00c9a6ca05835802e070844bd1a2396337b75c3b44875c020b8366396e"
ROOT = Path(__file__).parents[2]
OTHER_RUNTIMES = [
    "runtime.num_workers=3",
    "runtime.device=cuda",
    "runtime.num_cpus=2",
    "runtime.max_physical_batch_size=7",
    "runtime.max_failures=9",
]


def parse(*overrides: str) -> RunSpec:
    return parse_spec(TEXT, overrides=overrides)


def test_yaml_and_back_gives_the_same_spec_and_digest():
    spec = parse(
        "sampling.class_proportions=[0.5, 0.25, 0.25]",
        "knowledge_base.label_map={10: 0, 2: 1}",
        "data.class_names=[0, 1, 2]",
        VOTES,
    )
    again = parse_spec(spec.to_yaml())
    assert again == spec
    assert again.digest == spec.digest
    assert spec.data.class_names == ("0", "1", "2")


def test_an_override_reaches_a_nested_value_and_wins_over_the_file():
    spec = parse("privacy.sample_rate=0.5", "training.steps=7", "privacy.target_delta=1e-6")
    assert (spec.privacy.sample_rate, spec.training.steps, spec.privacy.target_delta) == (0.5, 7, 1e-6)


def test_the_last_override_of_a_name_wins():
    assert parse("training.steps=7", "training.steps=9").training.steps == 9


def test_an_override_takes_lists_mappings_and_null():
    spec = parse("knowledge_base.label_map={1: 2}", "sampling.class_proportions=[0, 0, 1]", "data.image_size=null")
    assert spec.knowledge_base.label_map == {1: 2}
    assert spec.sampling.class_proportions == (0.0, 0.0, 1.0)
    assert spec.data.image_size is None


def test_an_override_may_contain_an_equals_sign():
    assert parse("data.private=s3://b/x=1").data.private == "s3://b/x=1"


def test_an_override_reaches_a_section_that_the_file_leaves_empty():
    assert parse_spec(TEXT + "training:\n", overrides=["training.steps=7"]).training.steps == 7


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.steps", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("training.steps=[1", "not YAML"),
        ("training.stesp=3", "did you mean 'steps'"),
        ("trainign.steps=3", "did you mean 'training'"),
        ("training=3", "expected a mapping"),
        ("name.first=x", "^name is "),
        ("privacy.target_epsilon.x=3", "target_epsilon"),
        ("training.steps=true", "training.steps is True"),
        ("training.steps=ten", "training.steps is 'ten'"),
        ("training.steps=", "training.steps is None"),
    ],
)
def test_a_bad_override_is_refused_with_the_reason(override, said):
    with pytest.raises(SpecError, match=said):
        parse(override)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "", "just words"])
def test_text_that_is_no_spec_is_refused(text):
    with pytest.raises(SpecError):
        parse_spec(text)


def test_a_yaml_error_names_file_and_line():
    with pytest.raises(SpecError, match=r"my\.yaml is not YAML at line 2"):
        parse_spec("a: 1\nb: }\n", source="my.yaml")


def test_missing_privacy_is_refused_not_defaulted():
    with pytest.raises(SpecError, match="privacy is missing"):
        parse_spec("data: {private: p, public: q}")
    with pytest.raises(SpecError, match=r"data\.private is missing"):
        parse("data=null")
    with pytest.raises(SpecError, match=r"privacy\.nominal_size is missing"):
        parse_spec("data: {private: p, public: q}\nprivacy: {target_epsilon: 1, target_delta: 1e-5, sample_rate: 0.1}")


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_spec(str(tmp_path / "absent.yaml"))
    (tmp_path / "run.yaml").write_text(TEXT)
    assert load_spec(str(tmp_path / "run.yaml"), overrides=["training.steps=7"]) == parse("training.steps=7")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["schedule.split_step=1000", "training.objective=surrogate"], "objective is 'surrogate'"),
        (["sampling.starts=votes"], "sampling.starts is 'votes'"),
        (["training.class_init=votes"], "training.class_init is 'votes'"),
        ([VOTES, "data.num_classes=0"], "votes need data.num_classes"),
        ([VOTES, "sampling.starts=votes", "schedule.split_step=1000"], "retrieval is off"),
        (["sampling.class_proportions=[0.5, 0.5]"], "has 2 shares"),
        (["knowledge_base.label_map={0: 3}"], "label_map has 0: 3"),
        (["knowledge_base.label_map={-1: 0}"], "label_map has -1: 0"),
        (["denoiser.kind=unet", "autoencoder.kind=conv"], "use residual_mlp"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(overrides, said):
    with pytest.raises(SpecError, match=said):
        parse(*overrides)


def test_votes_are_legal_once_they_are_paid_for():
    spec = parse(VOTES, "sampling.starts=votes", "training.class_init=votes")
    assert spec.sampling.starts == "votes"


def test_a_spec_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        parse().name = "other"


@pytest.mark.parametrize("override", OTHER_RUNTIMES)
def test_the_runtime_does_not_change_the_digest(override):
    changed = parse(override)
    assert changed.runtime != parse().runtime
    assert changed.digest == parse().digest


@pytest.mark.parametrize("section", [f.name for f in fields(RunSpec) if f.name != "runtime"])
def test_every_section_but_the_runtime_changes_the_digest(section):
    assert parse(OTHER_VALUES[section]).digest != parse().digest


def test_the_digest_covers_every_setting_of_every_section():
    spec = parse()
    for f in fields(RunSpec):
        if f.name not in ("name", "runtime"):
            section = getattr(spec, f.name)
            assert set(spec.meaning()[f.name]) == {g.name for g in fields(section)}
    assert spec.digest == digest_of({k: v for k, v in yaml.safe_load(spec.to_yaml()).items() if k != "runtime"})


def test_the_digest_is_a_function_of_the_values_alone():
    turned = yaml.safe_dump(dict(reversed(list(yaml.safe_load(parse().to_yaml()).items()))), sort_keys=False)
    assert parse_spec(turned).digest == parse().digest
    assert replace(parse(), name="run").digest == parse().digest


def test_the_digest_of_values_stays():
    """It names folders and ledgers that are there: another way of computing it would orphan them."""
    values = {"data": {"private": "p", "classes": (1, 2)}, "privacy": {"delta": 1e-5}, "tune": None}
    assert digest_of(values) == DIGEST


@pytest.mark.parametrize("name", ["private", "public", "test"])
@pytest.mark.parametrize("uri", ["S3://bucket/x", "gs://bucket/x", "https://host/x"])
def test_a_data_uri_of_an_unknown_scheme_is_refused_with_the_known_ones(name, uri):
    with pytest.raises(SpecError, match=rf"^data\.{name} is '{uri}'; expected a local path, file:// or s3://"):
        parse(f"data.{name}={uri}")


@pytest.mark.parametrize("uri", ["s3://bucket/x", "file:///x", "dir/x", "/x", "a:b", "dir/c://x"])
def test_a_data_uri_that_can_be_opened_is_taken(uri):
    assert parse(f"data.private={uri}").data.private == uri


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\x00")
    with pytest.raises(SpecError, match="not text; expected a YAML spec"):
        load_spec(str(tmp_path / "image.png"))


@pytest.mark.parametrize("path", ["/data/set #2", "/data/a # b/c"])
def test_a_path_with_a_number_sign_is_taken_as_given(path):
    assert parse(f"data.private={path}").data.private == path


def test_a_comment_within_a_value_that_yaml_quotes_or_lists_stays_yaml():
    assert parse("data.private='/data/set #2'").data.private == "/data/set #2"
    assert parse("knowledge_base.label_map={1: 2} # letters").knowledge_base.label_map == {1: 2}


def test_how_a_source_is_read_is_part_of_what_a_run_is():
    changed = parse("data.reading.private={value_range: [0, 4095], fit: crop}")
    assert changed.data.reading.private.value_range == (0, 4095)
    assert changed.digest != parse().digest
    for wrong in ("value_range: [1, 0]", "value_range: [1]", "frame: -1", "fit: squash", "splitt: x"):
        with pytest.raises(SpecError):
            parse(f"data.reading.private={{{wrong}}}")


STATISTICS = ("sampling.starts=statistics", "statistics.noise_multiplier=4")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["statistics.noise_multiplier=4"], "nobody would use"),
        (["training.warm_up=statistics", "training.objective=surrogate"], "objective .denoise."),
        (["schedule.split_step=0"], "leaves the private model nothing to do"),
        ([*STATISTICS, "training.steps=0"], "below which nothing would be trained"),
        ([*STATISTICS, "schedule.split_step=1000"], "every start is pure noise"),
        (["statistics.count_share=0.5", "statistics.mean_share=0.5"], "expected less than 1"),
    ],
)
def test_statistics_that_nothing_uses_or_that_cannot_be_used_are_refused(overrides, words):
    with pytest.raises(SpecError, match=words):
        parse(*overrides)


def test_a_run_that_starts_from_statistics_looks_nothing_up():
    assert parse().uses_retrieval
    assert not parse(*STATISTICS).uses_retrieval
    assert parse(*STATISTICS, VOTES).uses_retrieval
    alone = parse("sampling.starts=statistics", "training.steps=0", "schedule.split_step=0")
    assert alone.releases_statistics
    assert not alone.uses_retrieval
