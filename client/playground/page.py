"""The page: what is on it, and what happens when somebody asks."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

# Before it is imported: Gradio tells its makers about itself unless it is told not to.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from electra_qa.rpc import electra_qa_pb2 as pb

from .. import Client
from ..errors import ElectraQAError
from . import view
from .examples import EXAMPLES

N_BEST = 5
# How many people may ask at the same moment; the server has its own limits.
CONCURRENCY = 32
# Visitors whose last result is kept, for the slider.
SESSIONS = 200

CSS = Path(__file__).with_name("page.css")
HINT = "Ask something, or click an example."
# A long passage is scrolled to its answer, and a narrow page to the verdict.
SHOW_ANSWER = """() => {
    const text = document.querySelector("#passage-answered .textfield");
    const span = text?.querySelector(".highlighted");
    if (span) {
        const above = span.getBoundingClientRect().top - text.getBoundingClientRect().top;
        text.scrollTop += above - text.clientHeight / 2;
    }
    document.querySelector("#verdict").scrollIntoView({block: "nearest", behavior: "smooth"});
}"""


def theme() -> gr.themes.Base:
    """Fonts of the reader's own system: nothing is fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue="emerald",
        secondary_hue="emerald",
        neutral_hue="slate",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    ).set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500")


def build_page(client: Client, info: pb.GetInfoResponse, server: str) -> gr.Blocks:
    """The page that asks `client`. server: where that is, for people."""
    default_threshold = info.bundle.null_score_diff_threshold
    end = max(view.SCALE_END, abs(default_threshold))

    def ask(passage: str, question: str, threshold: float) -> tuple[Any, ...]:
        began = time.perf_counter()
        try:
            result = client.answer(
                question, passage, top_k=N_BEST, null_score_diff_threshold=threshold
            )
        except ElectraQAError as error:
            empty = view.scale(None, threshold, end)
            return None, view.failure(error), empty, [], "", ""
        asked = view.Asked(passage, result, (time.perf_counter() - began) * 1e3)
        return asked, *judge(asked, threshold), view.table(asked), view.times(asked)

    def judge(asked: view.Asked | None, threshold: float) -> tuple[Any, ...]:
        if asked is None:
            return gr.skip(), view.scale(None, threshold, end), gr.skip()
        return (
            view.verdict(asked, threshold),
            view.scale(asked, threshold, end),
            view.segments(asked, threshold),
        )

    page = gr.Blocks(title="electra-qa", analytics_enabled=False, fill_width=True)
    with page:
        gr.HTML(view.header(info, server), elem_id="header")
        asked = gr.State()
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                passage = gr.Textbox(
                    label="Passage",
                    placeholder="Paste a text here",
                    lines=14,
                    max_lines=20,
                    elem_id="passage",
                )
                question = gr.Textbox(
                    label="Question",
                    placeholder="What do you want to know from it?",
                    max_lines=1,
                    elem_id="question",
                )
                button = gr.Button("Ask", variant="primary", elem_id="ask")
                examples = gr.Examples(
                    [[example.passage, example.question] for example in EXAMPLES],
                    inputs=[passage, question],
                    example_labels=[example.label for example in EXAMPLES],
                    elem_id="examples",
                    api_visibility="private",
                    preload=False,
                )
            with gr.Column(scale=6, min_width=320):
                verdict = gr.HTML(view.hint(HINT), elem_id="verdict")
                passage_answered = gr.HighlightedText(
                    label="In the passage",
                    color_map={view.ANSWER: "#0b7a5e", view.REFUSED: "#a36200"},
                    elem_id="passage-answered",
                )
                with gr.Group(elem_classes="null-group"):
                    scale = gr.HTML(view.scale(None, default_threshold, end), elem_id="scale")
                    threshold = gr.Slider(
                        -end,
                        end,
                        default_threshold,
                        step=0.1,
                        label="null_score_diff_threshold",
                        info="No answer where null score − best span is over it.",
                        elem_id="threshold",
                    )
                n_best = gr.HTML(elem_id="n-best")
                times = gr.HTML(elem_id="times")

        judged = [verdict, scale, passage_answered]
        for happens in (button.click, question.submit, examples.load_input_event.then):
            happens(
                ask,
                [passage, question, threshold],
                [asked, *judged, n_best, times],
                concurrency_limit=CONCURRENCY,
                api_visibility="private",
            ).then(fn=None, js=SHOW_ANSWER, api_visibility="private")
        threshold.change(
            judge,
            [asked, threshold],
            judged,
            show_progress="hidden",
            trigger_mode="always_last",
            concurrency_limit=CONCURRENCY,
            api_visibility="private",
        )
    return page


def serve_page(page: gr.Blocks, host: str, port: int) -> str:
    """Serve it from threads of its own, and return its URL. Raises OSError where it can't."""
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        theme=theme(),
        css_paths=CSS,
        share=False,
        inbrowser=False,
        inline=False,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        state_session_capacity=SESSIONS,
    )
    return url
