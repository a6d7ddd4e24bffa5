"""A page to try a model: edit demonstrations, type inputs, and see what each model makes of them.

`Demo` computes, and knows nothing of the page; `serve` shows it in a browser on this machine alone (NiceGUI, which asks
no other server for anything).
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .classifier import InContextClassifier, predict_to_file
from .prompts.choosing import Choice
from .prompts.layout import Direction
from .results import read_provenance
from .sources.reading import detect_delimiter

Pair = tuple[str, str]  # input and label
FIRST: tuple[Pair, ...] = (
    ("a robin", "bird"),
    ("a salmon", "fish"),
    ("a sparrow", "bird"),
    ("a trout", "fish"),
)
LONGEST_PASTE = 2_000_000  # characters
MOST_INPUTS = 100


@dataclass(frozen=True)
class Settings:
    """What the page can change. count: how many demonstrations a prompt shows; direction: None as trained."""

    count: int = 16
    choose: Choice | Literal["given"] = "given"
    order: int = 0
    direction: Direction | None = None


@dataclass(frozen=True)
class Answer:
    """Of one input the probability of each label, by the name of the model."""

    input: str
    probabilities: Mapping[str, Mapping[str, float]]


@dataclass
class Demo:
    """Models by the names that the page gives them; the first is the one to be tried. Each is loaded once."""

    models: Mapping[str, str]
    device: str = "auto"
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def answers(
        self, demonstrations: Sequence[Pair], inputs: Sequence[str], settings: Settings
    ) -> tuple[list[Answer], list[str]]:
        """What every model makes of each input, and what its user should know; ValueError for bad input."""
        texts = [text.strip() for text in inputs if text.strip()]
        if not texts:
            raise ValueError("there is no input; type one a line")
        if len(texts) > MOST_INPUTS:
            raise ValueError(f"there are {len(texts)} inputs; type at most {MOST_INPUTS}, or paste a CSV")
        found: dict[str, Any] = {}
        with self._one_at_a_time, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for name in self.models:
                classifier = self.classifier(name, demonstrations, settings)
                found[name] = (list(map(str, classifier.classes_)), classifier.predict_proba(texts))
        answers = [
            Answer(text, {name: dict(zip(labels, map(float, rows[i]), strict=True)) for name, (labels, rows) in pairs})
            for pairs in [list(found.items())]
            for i, text in enumerate(texts)
        ]
        return answers, list(dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning))

    def predict_csv(
        self, demonstrations: Sequence[Pair], pasted: str, column: str, settings: Settings
    ) -> tuple[str, int]:
        """The rows of a pasted CSV with the first model's predictions, as `predict --input-file` writes them, and how
        many rows could not be predicted; ValueError for bad input."""
        if len(pasted) > LONGEST_PASTE:
            raise ValueError(f"the table has over {LONGEST_PASTE:,} characters; use `predict --input-file`")
        if not pasted.strip():
            raise ValueError("there is no table; paste one with a header")
        column = column.strip() or _first_column(pasted)
        with self._one_at_a_time, tempfile.TemporaryDirectory() as name:
            source, output = Path(name) / "pasted.csv", Path(name) / "predicted.csv"
            source.write_text(pasted.strip() + "\n", encoding="utf-8", newline="")
            try:
                done = predict_to_file(
                    self.classifier(next(iter(self.models)), demonstrations, settings), source, output, column
                )
            except ValueError as error:
                raise ValueError(str(error).replace(str(source), "the table")) from None
            return output.read_text(encoding="utf-8"), done.bad

    def classifier(self, name: str, demonstrations: Sequence[Pair], settings: Settings) -> InContextClassifier:
        """The model of that name with the demonstrations as its examples."""
        pairs = [(text.strip(), label.strip()) for text, label in demonstrations if text.strip() or label.strip()]
        for number, pair in enumerate(pairs, start=1):
            if not all(pair):
                raise ValueError(f"demonstration {number} has no {'input' if not pair[0] else 'label'}; fill it in")
        if len({label for _, label in pairs}) < 2:
            raise ValueError("the demonstrations have fewer than two labels; add one with another label")
        shown = pairs[: max(settings.count, 1)] if settings.choose == "given" else pairs
        classifier = InContextClassifier(
            self.models[name],
            choose=settings.choose,
            demonstrations=settings.count,
            order=settings.order,
            direction=settings.direction,
            device=self.device,
        )
        labels = sorted({label for _, label in pairs})
        return classifier.partial_fit([text for text, _ in shown], [label for _, label in shown], classes=labels)


def models_to_show(model: str, raw: str | None) -> dict[str, str]:
    """The models of the page by name: the one to try and, if there is one, what it was trained from."""
    made = read_provenance(model)
    start = raw or (made.start if made and made.training else None)
    if raw is None and start is not None and start != "starter" and not Path(start).is_dir():
        start = None
    return {"trained" if made or start else "model": model} | ({"raw": start} if start else {})


def _first_column(pasted: str) -> str:
    """`text` or `input` if the header has one, else its first name."""
    header = pasted.strip().splitlines()[0]
    names = [name.strip().strip('"') for name in header.split(detect_delimiter(pasted[:200_000]))]
    return next((name for name in ("text", "input") if name in names), names[0])


# ---- the page


def serve(demo: Demo, demonstrations: Sequence[Pair], port: int) -> None:
    """Shows the page at 127.0.0.1:`port` until it is stopped; ValueError when that cannot be."""
    try:
        from nicegui import app, ui
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError:
        raise ValueError("the page needs NiceGUI; install it with `pip install 'maml-en-llm[demo]'`") from None
    check_port(port)
    # Other sites must not reach the page by a name that leads here, nor may the page reach them.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    app.add_middleware(OnlyThisServer)

    @ui.page("/")
    def page() -> None:
        _Page(ui, demo, list(demonstrations))

    print(f"http://127.0.0.1:{port}   (Ctrl-C stops it)", flush=True)
    ui.run(
        host="127.0.0.1",
        port=port,
        title="MAML-en-LLM",
        show=False,
        reload=False,
        show_welcome_message=False,
        uvicorn_logging_level="error",
    )


def check_port(port: int) -> None:
    """ValueError when `port` is none, or taken."""
    if not 1 <= port <= 65535:
        raise ValueError(f"--port is {port}; it must lie between 1 and 65535")
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(f"--port {port} cannot be had ({error.strerror}); give another") from None


class OnlyThisServer:
    """Tells the browser to load nothing for the page from elsewhere."""

    POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", self.POLICY)]
            await send(message)

        await self.app(scope, receive, with_policy)


class _Page:
    """One browser tab. Texts of users are only ever the text of an element, never its HTML."""

    def __init__(self, ui: Any, demo: Demo, demonstrations: list[Pair]) -> None:
        self.ui, self.demo = ui, demo
        self.rows: list[tuple[Any, Any]] = []
        self.settings = Settings()
        ui.label("Try a model").classes("text-2xl")
        for name, folder in demo.models.items():
            ui.label(f"{name}: {folder}").classes("text-sm text-gray-600")
        with ui.row().classes("w-full items-start no-wrap gap-8"):
            with ui.column().classes("w-1/2"):
                ui.label("Demonstrations").classes("text-lg")
                self.table = ui.column().classes("w-full gap-1")
                for pair in demonstrations:
                    self.add(*pair)
                ui.button("add a demonstration", on_click=lambda: self.add("", "")).props("flat dense").mark("add")
            with ui.column().classes("w-1/2"):
                ui.label("What a prompt shows").classes("text-lg")
                self.show_settings()
                self.inputs = ui.textarea("inputs, one a line").classes("w-full").props('data-name="inputs"')
                ui.button("predict", on_click=self.guarded(self.predict)).props('data-name="predict"')
                self.results = ui.column().classes("w-full").props('data-name="results"')
        ui.separator()
        ui.label("A table: paste a CSV with a header, get it back with predictions").classes("text-lg")
        with ui.row().classes("w-full no-wrap"):
            self.pasted = ui.textarea("CSV").classes("w-1/2").props('data-name="csv"')
            self.predicted = ui.textarea("with predictions").classes("w-1/2").props('readonly data-name="predicted"')
        with ui.row():
            self.column = ui.input("column of the texts").props('data-name="column"')
            ui.button("predict the table", on_click=self.guarded(self.predict_table)).props('data-name="predict-table"')
            ui.button("download", on_click=lambda: ui.download.content(self.predicted.value or "", "predictions.csv"))

    def show_settings(self) -> None:
        ui = self.ui
        choices = ["given", "random", "balanced", "bm25", "nearest", "diverse"]
        orders = {0: "as chosen", 1: "shuffled", 2: "shuffled again", 3: "shuffled a third time"}
        directions = {None: "as trained", "direct": "direct", "channel": "channel"}

        def take(name: str) -> Callable[[Any], None]:
            def change(event: Any) -> None:
                changes: dict[str, Any] = {name: int(event.value or 1) if name == "count" else event.value}
                self.settings = replace(self.settings, **changes)

            return change

        with ui.row():
            ui.number("k", value=16, min=1, max=256, precision=0, on_change=take("count")).props('data-name="k"')
            ui.select(choices, value="given", label="choice", on_change=take("choose")).props('data-name="choice"')
            ui.select(orders, value=0, label="order", on_change=take("order")).props('data-name="order"')
            ui.select(directions, value=None, label="direction", on_change=take("direction")).props(
                'data-name="direction"'
            )

    def add(self, text: str, label: str) -> None:
        """A row of the table of demonstrations."""
        ui, number = self.ui, len(self.rows)
        with self.table, ui.row().classes("w-full no-wrap items-center") as line:
            fields = (
                ui.input("input", value=text).classes("grow").props(f'dense data-name="input-{number}"'),
                ui.input("label", value=label).classes("w-32").props(f'dense data-name="label-{number}"'),
            )
            self.rows.append(fields)

            def remove() -> None:
                self.rows.remove(fields)
                line.delete()

            ui.button(icon="close", on_click=remove).props("flat dense")

    def demonstrations(self) -> list[Pair]:
        return [(text.value or "", label.value or "") for text, label in self.rows]

    def guarded(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """`work`, whose ValueErrors are shown."""

        async def run() -> None:
            try:
                await work()
            except ValueError as error:
                self.ui.notify(str(error), type="negative", multi_line=True, timeout=10_000)

        return run

    async def predict(self) -> None:
        inputs = (self.inputs.value or "").split("\n")
        answers, remarks = await asyncio.to_thread(self.demo.answers, self.demonstrations(), inputs, self.settings)
        self.results.clear()
        with self.results:
            for remark in remarks:
                self.ui.label(remark).classes("text-orange-800")
            for answer in answers:
                self.show(answer)

    def show(self, answer: Answer) -> None:
        ui = self.ui
        ui.label(answer.input).classes("font-bold answer")
        with ui.grid(columns=f"minmax(6rem, auto) repeat({len(answer.probabilities)}, 1fr)").classes("w-full gap-1"):
            ui.label("")
            for name in answer.probabilities:
                ui.label(name).classes("text-sm text-gray-600")
            for label in next(iter(answer.probabilities.values())):
                ui.label(label).classes("option")
                for values in answer.probabilities.values():
                    best = values[label] == max(values.values())
                    with ui.element("div").classes("relative-position bg-grey-3"):
                        colour = "bg-blue-4" if best else "bg-grey-5"
                        ui.element("div").classes(colour).style(f"width: {100 * values[label]:.1f}%; height: 1.5rem")
                        ui.label(f"{100 * values[label]:.1f} %").classes("absolute-top q-px-xs probability")

    async def predict_table(self) -> None:
        work = (self.demonstrations(), self.pasted.value or "", self.column.value or "", self.settings)
        text, bad = await asyncio.to_thread(self.demo.predict_csv, *work)
        self.predicted.value = text
        if bad:
            self.ui.notify(f"{bad} rows could not be predicted and were left out", type="warning")
