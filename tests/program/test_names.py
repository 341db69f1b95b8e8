"""Names of all kinds go through all commands: each works, or is refused in one message."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.program.doors import QUICK, fault_of
from tests.program.forked import run_forked
from tests.program.servers import TRACKING_SERVER, running

NAMES: tuple[str, ...] = (
    *("[bold]", "[/bold]", "[x](javascript:alert(1))", "![x](y)", "**a**", "_a_", "`a`", "|a|", "a|b", "# a", "> a"),
    *("$\\frac{$", "$a$", "\\", "a\\b", "%s%n", "{0}", "{a: 1}", "${seed}", "${oc.env:NOPE}", "???"),
    *("<script>alert(1)</script>", "<b>", "&amp;", '"', "'", "'; DROP TABLE runs;--", "a=b", "a:b", "a,b", "[a]"),
    *("a/b", "/dev/null/a", "../b", "..", ".", ".a", "a.", " a", "a ", "", "a~", "~nobody", "*", "?", "#", "-rf", "@a"),
    *("{a}", "--help"),
    *("é☃", "名前", "𝕏", "😀", "\u202egnp.exe", "\u200b", "a\u0301", "\x1b[31mred", "a\tb", "a\nb", "\x7f", "\udcff"),
    *("null", "true", "1e3", "NaN", "0", "-1", "None", "CON", "nul", "models:/a", "runs:/a", "file:///dev/null"),
    *("http://127.0.0.1:1", "sqlite:///owned", "x" * 200, "x" * 201, "é" * 100, "é" * 101, "x" * 3000),
)


def _quoted(name: str) -> str:
    """A text as Hydra reads it whatever is in it."""
    return "'" + re.sub(r"(\\*)(?='|$)", r"\1\1", name).replace("'", "\\'") + "'"


@pytest.mark.slow
def test_names_go_through_all_commands_or_are_refused_in_one_message(
    times: int, furnished: Path, tmp_path: Path
) -> None:
    """Each round names two classes, their folder, three files, an experiment, a registered model and a directory.

    `--times 16` gives every name of the list.
    """
    rounds, faults, given, codes = times, [], set(), Counter[int]()
    draw = random.Random(0)
    letters = "".join(NAMES[:60]).replace("/", "")  # At random, they would lead anywhere.
    names = [*NAMES, *("".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(9 * rounds))]
    draw.shuffle(names)
    (tmp_path / "server").mkdir()
    with running(*TRACKING_SERVER, cwd=tmp_path / "server") as uri:
        for number in range(rounds):
            directory = tmp_path / str(number)
            shutil.copytree(furnished, directory)
            class_a, class_b, images, *files, experiment, model, output = (names.pop() for _ in range(9))
            given |= {class_a, class_b, images, *files, experiment, model, output}
            for split in ("train", "test"):
                for old, new in (("a", class_a), ("b", class_b)):
                    with suppress(OSError, ValueError):  # Not every text can be the name of a folder.
                        (directory / "images" / split / old).rename(directory / "images" / split / new)
            taken = sorted((directory / "images" / "train").rglob("*.png"))
            for image, file in zip(taken, files, strict=False):
                with suppress(OSError, ValueError):
                    image.rename(image.with_name(f"{file}.png"))
            with suppress(OSError, ValueError):
                (directory / "images").rename(directory / images)
                (directory / "images").symlink_to(directory / images)
            file = files[0]
            kept = f"output_dir={_quoted(output or 'o')}"
            train = ["pipeline.train", "study=heads", "head=global_average_pool", "seed=0", *QUICK[:3]]
            folder = ["dataset=image_folder", f"dataset.path={_quoted(images)}"]
            named = [f"tracking.experiment={_quoted(experiment)}", f"tracking.register_as={_quoted(model)}"]
            for command in (
                [*train, *folder, *named, kept],
                # Where one of these is refused, the others go on.
                [*train, "dataset=image_folder", "dataset.path=images", "tracking.register_as=kept"],
                ["pipeline.compare", "study=heads", kept],
                ["pipeline.compare", "study=heads"],
                ["pipeline.compare", f"study={_quoted(experiment)}"],
                ["pipeline.convert", f"model={_quoted(f'models:/{model}/1')}", kept, f"output={_quoted(output)}"],
                ["pipeline.convert", "model=models:/kept/1", "way=resize_input", f"output={_quoted(f'{file}.keras')}"],
                ["pipeline.probe", f"model={_quoted(f'{file}.keras')}", "images=images/test", "size_probe.sizes=[8]"],
                ["pipeline.plan", *folder, f"head={_quoted(class_a)}"],
                ["pipeline.sync", f"tracking.uri={uri}"],
                ["pipeline.dashboard", f"port={uri.rpartition(':')[2]}", kept],  # It would not end on a free one.
            ):
                ended = run_forked(*command, cwd=directory)
                # Some of these names lead to the directory above, as whoever types them wants.
                if fault := fault_of(ended, tmp_path):
                    faults.append(f"round {number}, {command}: {fault}\n{ended.output[-2000:]}")
                codes[ended.returncode] += 1
            shutil.rmtree(directory)
    print(f"{len(given)} names: {codes[0]} commands worked, {codes[2]} were refused in one message")
    assert not faults, "\n".join(faults)
    assert len(given) > 8 * rounds  # Nine in a round, of which few are drawn twice.
    assert min(codes[0], codes[2]) > rounds
