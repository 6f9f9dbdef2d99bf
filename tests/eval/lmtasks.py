"""Definitions of lm-eval's kinds over a few rows: what each gives its runner must also give us."""

import json
import re

from eval.fake import Fake

from dsv4.eval.subject import Reply

NOUNS = "moon river stone lamp bread glass chair forest".split()
ROWS = [
    {
        "q": f"What is {a} + {b}?",
        "choices": [str(a + b), str(a), f"{b}0"],
        "gold": a % 3,
        "golds": sorted({a % 3, b % 3}),
        "yes": (a + b) % 2,
        "text": f"The {NOUNS[a]} and the {NOUNS[b % 8]} are {a + b} miles apart. " * (a + 1),
        "kind": "even" if a % 2 == 0 else "odd",
    }
    for a in range(1, 6)
    for b in (2, 7)
]
BASE = """\
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl, train: FOLDER/train.jsonl}}
test_split: test
doc_to_text: "{{q}}"
doc_to_target: gold
"""
CHOICE = 'output_type: multiple_choice\ndoc_to_choice: "{{choices}}"\n'
TEXT = 'output_type: generate_until\ndoc_to_target: "{{choices[gold]}}"\n'
KINDS = {
    "own_choice": CHOICE + "metric_list: [{metric: acc}, {metric: acc_norm}]",
    "own_text": TEXT
    + 'doc_to_text: "{{q}} I think that the answer must be"\n'
    + 'generation_kwargs: {until: ["a", "\\n"], max_gen_toks: 6, do_sample: false}\n'
    + "metric_list: [{metric: exact_match}]",
    "own_filters": TEXT
    + 'generation_kwargs: {until: ["\\n\\n", "Q:", ""], max_gen_toks: 8}\n'
    + "metric_list: [{metric: exact_match}]\n"
    + "filter_list:\n"
    + "  - name: strict-match\n"
    + '    filter: [{function: regex, regex_pattern: "answer is ([0-9]+)"}, '
    + "{function: take_first}]\n"
    + "  - name: flexible-extract\n"
    + '    filter: [{function: regex, group_select: -1, regex_pattern: "([0-9]+)"}, '
    + "{function: take_first}]",
    "own_rolling": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\n'
    + 'doc_to_target: "{{text}}"\n'
    + "metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, "
    + "{metric: bits_per_byte}]",
    "own_word": 'output_type: loglikelihood\ndoc_to_target: " {{choices[gold]}}"\n'
    + "metric_list: [{metric: perplexity}, {metric: acc}]",
    "own_several": CHOICE + 'doc_to_target: "{{golds}}"\nmetric_list: [{metric: acc}]',
    "own_f1": CHOICE
    + 'doc_to_target: "yes"\ndoc_to_choice: ["no", "yes"]\n'
    + "metric_list: [{metric: f1}, {metric: mcc}, {metric: acc}]",
    "own_brier": CHOICE + "metric_list: [{metric: brier_score}, {metric: acc_bytes}]",
    "own_mutual": CHOICE + "metric_list: [{metric: acc}, {metric: acc_mutual_info}]",
    "own_shots": CHOICE + "fewshot_split: train\nnum_fewshot: 2\nmetric_list: [{metric: acc}]",
    "own_bleu": TEXT + "metric_list: [{metric: bleu}, {metric: chrf}]",
}
PARTS = {  # tasks of a group: unlike in size, and in how they generate
    "own_even": TEXT
    + 'process_docs: !function helpers.even\ngeneration_kwargs: {until: ["1"], max_gen_toks: 5}\n'
    + "metric_list: [{metric: exact_match}]",
    "own_odd": TEXT
    + 'process_docs: !function helpers.odd\ngeneration_kwargs: {until: ["Q"], max_gen_toks: 40}\n'
    + "metric_list: [{metric: exact_match}]",
}
GROUPS = {
    name: f"group: {name}\ntask: [own_even, own_odd]\n"
    f"aggregate_metric_list: [{{metric: exact_match, weight_by_size: {weighted}}}]\n"
    for name, weighted in (("own_even_odd", "false"), ("own_all", "true"))
}
REFUSED = {
    "own_pictures": (TEXT + "doc_to_image: text", "shows pictures or sounds"),
    "own_sounds": (TEXT + "doc_to_audio: text", "shows pictures or sounds"),
    "own_programs": (TEXT + "unsafe_code: true", "HF_ALLOW_CODE_EVAL=1 allows it"),
    "own_repeats": (TEXT + "repeats: 4", "4 replies to a question"),
    "own_beams": (TEXT + "generation_kwargs: {num_beams: 4}", "num_beams=4: subjects have no such"),
}
HELPERS = """\
def even(rows):
    return rows.filter(lambda row: row["kind"] == "even")


def odd(rows):
    return rows.filter(lambda row: row["kind"] == "odd")
"""


def write(folder):
    """All of them into a folder."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    train = [row | {"q": row["q"].replace("What", "How much")} for row in ROWS]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    (folder / "helpers.py").write_text(HELPERS)
    bodies = KINDS | PARTS | {name: text for name, (text, _) in REFUSED.items()}
    for name, text in bodies.items():
        base = "".join(
            line + "\n"
            for line in BASE.splitlines()
            if f"\n{line.partition(':')[0]}:" not in f"\n{text}"
        )
        task = f"task: {name}\n{base}{text}\n".replace("FOLDER", str(folder))
        (folder / f"{name}.yaml").write_text(task)
    for name, text in GROUPS.items():
        (folder / f"{name}.yaml").write_text(text)


class Writer(Fake):
    """Goes on with texts by a digest of all that it is asked with, the seed apart."""

    def generate(self, ask):
        self.asked.append(ask)
        number = self._number(ask.prompt, ask.max_tokens, ask.stop, ask.temperature, ask.top_p)
        a, b = re.findall("([0-9]) [+] ([0-9])", ask.prompt)[-1]
        said = (f"{int(a) + int(b)}", a, f"{b}0")[number % 3]
        text = (f"the answer is {said}", said, f"the answer is 5, or {said}")[number % 2 :]
        return Reply(text[0], "", (), "length" if number % 5 == 0 else "stop", 9, 3, 5)
