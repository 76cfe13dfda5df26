"""What is known of a family of checkpoints, and how one of them is read.

A family is a table of names, the facts that its own code has and its files do not say, and, where it has config files, a
function that reads them. What neither a table nor a file nor the code tells (often the number of heads) is asked for.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..config import ViTConfig
from ..errors import InputError
from ..files.converted import Checkpoint
from ..files.tensorfile import STORED_AS, Tensor, tensor_of
from ..pictures.images import Preprocess
from . import timm_models
from .hugging_face_config import own_config, refuse_place
from .preprocessing import image_processor, policy, read_preprocessor
from .sources import Source
from .table import Table, Tensors, first_names, measure, positions_for

Array = Any


@dataclasses.dataclass
class OpenCheckpoint:
    """One checkpoint while it is read."""

    source: Source
    config: Mapping[str, Any]  # of its config file, or empty
    tensors: Tensors | None  # without the family's prefixes; None: there is only a config file
    seen: dict[str, Any]  # what the tensors tell of ViTConfig's fields
    notes: list[str]
    left_out: dict[str, str]  # pattern of tensor names -> why the model has no use for them
    shapes: dict[str, tuple[int, ...]]  # of the file's tensors, before they are prepared


def nothing(reading: OpenCheckpoint) -> dict[str, Any]:
    """Of a family whose files say nothing but tensors."""
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A dialect of ViT checkpoints.

    name       what --family takes
    title      a few words
    upstream   whose code was read for the table and the facts
    table      names and shapes
    marks      patterns of tensor names: a file that has all of them is of this family
    model_types    or whose config.json says one of these
    shaped     and whose tensors' shapes are right, where names do not tell
    prefixes   of the trunk, beside which a head may lie (what else comes before all names is found)
    towers     ends of the prefix that is meant, where a file holds several models of this family
    fixed      fields of ViTConfig that its code has for every model
    says       what its config files say of the others
    left_out   pattern of names -> why the model has no use for these tensors
    prepare    what is done to the tensors first (a depth axis split, say), given the config file
    made       tensors of ours that no file holds but that follow from the config
    confusable    another model that the tensors may be as well, or None
    policy     how its pictures are prepared (numpy_vit.convert.preprocessing.POLICIES), where no file says it
    preprocess    reads it from the family's own files; gives None where they do not say
    unprepared   how the names of its image processors begin, whose steps are not done here: said, and no reason to refuse
    prepared   what its code itself does to pictures before the first layer, added to how files say they are prepared
    labels     class names, likewise
    hugging_face   its config.json says all that tensors do not
    whole_names    names are as the file has them: nothing that comes before is left off (a rename table's)
    """

    name: str
    title: str
    upstream: str
    table: Table
    marks: tuple[str, ...]
    shaped: Callable[[Tensors], bool] = lambda tensors: True
    model_types: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    towers: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    says: Callable[[OpenCheckpoint], dict[str, Any]] = nothing
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prepare: Callable[[Tensors, Mapping[str, Any]], Tensors] = lambda tensors, config: tensors
    made: Callable[[ViTConfig, OpenCheckpoint], dict[str, Array]] = lambda config, reading: {}
    confusable: Callable[[OpenCheckpoint], str | None] = lambda reading: None
    policy: str | None = None
    preprocess: Callable[[OpenCheckpoint, ViTConfig], Preprocess | None] = lambda reading, config: None
    prepared: Callable[[OpenCheckpoint, Preprocess], Preprocess] = lambda reading, preprocess: preprocess
    labels: Callable[[OpenCheckpoint, ViTConfig], list[str] | None] = lambda reading, config: None
    unprepared: tuple[str, ...] = ()
    hugging_face: bool = False
    whole_names: bool = False

    def recognise(self, source: Source) -> str | None:
        """Why a checkpoint is of this family, in a few words, or None."""
        model_type = own_config(source.config, [], self.model_types).get("model_type")
        if isinstance(model_type, str):
            return f"config.json says model_type '{model_type}'" if model_type in self.model_types else None
        names = self.marked(self.without_prefix(source.tensors))
        return None if names is None else "its tensors are named so: " + ", ".join(names[:3])

    def marked(self, tensors: Tensors) -> list[str] | None:
        """The names that mark this family, or None where they are not all there."""
        matches = [next((name for name in tensors if re.fullmatch(mark, name)), None) for mark in self.marks]
        if not tensors or not matches or None in matches or not self.shaped(tensors):
            return None
        return [str(name) for name in matches]

    def without_prefix(self, tensors: Tensors) -> dict[str, Tensor]:
        """The tensors of the picture's model, without what comes before all names. Raises InputError where two become one."""
        return self.stripped(tensors, self.prefix(tensors))

    def prefix(self, tensors: Tensors) -> str:
        """What comes before the names of this family: where the most of them lie, beside a patch projection.

        Of several such places alike (a student and a teacher, say) the one that `towers` names. Raises InputError where
        nothing tells which.
        """
        if self.whole_names:
            return ""
        matches = (self.table.projection.fullmatch(name) for name in tensors)
        prefixes = sorted({match[1] for match in matches if match is not None})
        if len(prefixes) < 2:
            return prefixes[0] if prefixes else ""
        counts = {p: sum(1 for name in tensors if name.startswith(p) and self.known(name[len(p) :])) for p in prefixes}
        best = [p for p in prefixes if counts[p] == max(counts.values())]
        preferred = [p for tower in self.towers for p in best if p.endswith(tower)]
        if len(best) > 1 and not preferred and self.marks and not any(self.marked(under(p, tensors)) for p in best):
            return best[0]  # none of them is of this family: no two of its models are there
        if len(best) > 1 and not preferred:
            raise InputError(
                f"some tensors are there twice, under {' and '.join(map(repr, best))}: save the one that is meant by itself"
            )
        return (preferred or best)[0]

    def known(self, name: str) -> bool:
        """Whether a name is this family's, or one that it leaves out with a reason."""
        return self.table.known.fullmatch(name) is not None or any(re.fullmatch(p, name) for p in self.left_out)

    def stripped(self, tensors: Tensors, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix; and those that lie beside it, as a classifier does beside "vit."."""
        return {short: tensors[name] for short, name in self.stripped_names(tensors, prefix).items()}

    def stripped_names(self, names: Iterable[str], prefix: str) -> dict[str, str]:
        """The names of these tensors: without the prefix -> whole."""
        above = [prefix]
        while inner := next((p for p in self.prefixes if above[-1].endswith(p)), ""):
            above.append(above[-1].removesuffix(inner))
        bare: dict[str, str] = {}
        for name in names:
            shorts = [name[len(p) :] for p in above if name.startswith(p)]
            shorts += [s.removeprefix(p) for s in shorts for p in self.prefixes if s.startswith(p)]  # "model.layer.0" alone
            known = next((s for s in shorts if self.known(s)), None)
            short = known or (shorts[0] if name.startswith(prefix) else None)
            if short is None:
                continue
            if short in bare:
                raise InputError(f"some tensors are there twice, with and without a prefix: '{short}' and '{name}'")
            bare[short] = name
        return bare

    def reading(self, source: Source, notes: list[str]) -> OpenCheckpoint:
        """A checkpoint of this family, opened."""
        prefix = self.prefix(source.tensors)
        refuse_place(prefix, self.model_types)
        names = self.stripped_names(source.tensors, prefix)
        bare = {short: source.tensors[name] for short, name in names.items()}  # of shards, only those that hold them are read
        if len(bare) < len(source.tensors):
            kept = set(names.values())
            others = [name for name in source.tensors if name not in kept]
            notes.append(
                f"{len(others)} tensors are left out: the model is what lies under '{prefix}' (not: {first_names(others)})"
            )
        elif prefix and prefix not in self.prefixes:
            notes.append(f"the names begin with '{prefix}', which is left off")
        tensors = dict(self.prepare(bare, source.config or {})) if bare else None
        seen = measure(self.table, tensors) if tensors else {}
        shapes = {name: tensor.shape for name, tensor in bare.items()}
        config = own_config(source.config, notes, self.model_types)
        return OpenCheckpoint(source, config, tensors, seen, notes, dict(self.left_out), shapes)

    def config(self, reading: OpenCheckpoint, told: Mapping[str, Any]) -> ViTConfig:
        """The model's config. `told`: fields of it that a user says. Raises InputError for what nobody says."""
        try:
            said = self.says(reading)
        except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"its config file makes no sense ({type(error).__name__}: {error})") from error
        for name in SEEN_SURELY:
            if name in told and name in reading.seen and told[name] != reading.seen[name]:
                raise InputError(f"{name}={told[name]} is told, the tensors say {reading.seen[name]}")
        fields = {**self.fixed, **reading.seen, **said, **told}
        if self.hugging_face:  # config.json has the image size; and positions are of all tokens, unless it says otherwise
            fields["positions"] = said.get("positions", self.fixed.get("positions", "all"))
        elif reading.tensors and "positions" not in {**said, **told}:
            fields["positions"] = positions_for(self.table, reading.tensors, fields) or fields.get("positions")
        self.ask_for_what_is_missing(fields)
        taken = [f"{name} {fields[name]}" for name in SAID if name not in told and fields.get(name) is not None]
        taken = [text for text in taken if text.split()[0] not in reading.seen]
        if taken and not self.hugging_face and self.name != "mapped" and not timm_models.names_one(reading.config):
            reading.notes.append(f"{', '.join(taken)}: the tensors do not tell; as in {self.upstream}")
        return ViTConfig(**{name: value for name, value in fields.items() if value is not None})

    def ask_for_what_is_missing(self, fields: Mapping[str, Any]) -> None:
        """Raise InputError where a field that has no default is not known."""
        required = [f.name for f in dataclasses.fields(ViTConfig) if f.default is dataclasses.MISSING]
        asked = [name for name in required if fields.get(name) is None]
        if asked:
            examples = " ".join(f"{name}={EXAMPLES.get(name, '...')}" for name in asked)
            raise InputError(
                f"{self.title}: the file cannot tell {', '.join(asked)}: say so on the command line (like {examples}) "
                "or in a JSON file (--config)"
            )

    def convert(self, source: Source, told: Mapping[str, Any], named: bool = False) -> Checkpoint:
        """The source as a checkpoint of ours. Nothing is copied: the tensors are views of the file's memory map.

        `named`: a user says that it is of this family.
        """
        reading = self.reading(source, [])
        assert reading.tensors is not None
        unlike = self.marks and self.marked(self.without_prefix(source.tensors)) is None
        if "rope" in self.fixed and unlike and not timm_models.names_one(source.config):  # it would be given rotary positions
            raise InputError(f"its tensors are not {self.title}'s, whose names have {', '.join(self.marks)}")
        others = timm_models.alike(reading.shapes) if "rope" in self.fixed and not timm_models.names_one(source.config) else []
        if others and not any(timm_models.family({"architecture": name}) == self.name for name in others):
            raise InputError(
                f"its names and shapes are those of timm's {others[0]}, not of {self.title}: give timm's config.json"
            )
        if not named and (other := self.confusable(reading)) is not None:
            raise InputError(
                f"its names and shapes are {self.title}'s, and also those of timm's {other}, another model: say which, by "
                f"timm's config.json or by --family {self.name}"
            )
        config = self.config(reading, told)
        tensors = used(reading, self.table)
        made = {ours: tensor_of(array) for ours, array in self.made(config, reading).items()}
        unsaid = [match[1] for note in reading.notes if (match := re.match(r"config\.json does not say (\w+):", note))]
        whose = "config.json" if self.hugging_face else "the config"
        if unsaid and self.hugging_face:
            whose += f" (or transformers' default for {', '.join(unsaid)}, which it does not give)"
        converted = self.table.convert(tensors, config, whose, made)
        labels = self.labels(reading, config)
        return Checkpoint(config, converted, self.preprocessing(reading, config), labels, {"family": self.name}, reading.notes)

    def preprocessing(self, reading: OpenCheckpoint, config: ViTConfig) -> Preprocess | None:
        """How the model wants its pictures: as its files say, or as its family does."""
        source, notes = reading.source, reading.notes
        if source.policy is not None:
            return policy(source.policy, config.image, config.channels)
        processor = image_processor(source.preprocessor or {}).get("image_processor_type")
        if self.unprepared and isinstance(processor, str) and processor.startswith(self.unprepared):
            notes.append(f"{processor} prepares pictures in a way of its own, which is not done here: give pixels that it made")
            return None
        if source.preprocessor is not None or self.hugging_face:
            read = read_preprocessor(source.preprocessor, config.channels, notes, reading.config.get("model_type"))
            return read and self.prepared(reading, read)
        found = self.preprocess(reading, config)
        if found is None and self.policy is not None and config.channels == 3:
            notes.append(f"no file says how pictures are prepared: as in {self.upstream} ({self.policy})")
            found = policy(self.policy, config.image, config.channels)
        if found is None:
            notes.append("no file says how pictures are prepared: --preprocessor names one that does")
        return found


def under(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def used(reading: OpenCheckpoint, table: Table) -> dict[str, Tensor]:
    """The tensors without those that the model has no use for; which these are is noted."""
    tensors = dict(reading.tensors or {})
    whole = [name for name, tensor in tensors.items() if tensor.dtype not in STORED_AS and not table.known.fullmatch(name)]
    reasons = [([name for name in tensors if re.fullmatch(pattern, name)], why) for pattern, why in reading.left_out.items()]
    for names, why in [*reasons, (whole, "it is a count or an index, and no weight")]:
        names = [name for name in names if tensors.pop(name, None) is not None]
        if names:
            others = f" and {len(names) - 1} more like it are" if len(names) > 1 else " is"
            reading.notes.append(f"{names[0]}{others} left out: {why}")
    return tensors


SAID = ("heads", "eps", "activation", "pooling", "position_rule", "rope_grid")  # what a user may doubt
SEEN_SURELY = ("heads", "patch", "channels", "width", "depth", "mlp", "classes", "registers")
EXAMPLES = {
    "heads": "12", "eps": "1e-6", "activation": "gelu", "image": "224", "pooling": "class", "position_rule": "bicubic",
    "patch": "16", "channels": "3",
}  # fmt: skip
