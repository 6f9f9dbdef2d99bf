"""Inspect's tasks with questions in memory: choices, texts, tools, a judge, a container."""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import choice, match, model_graded_qa
from inspect_ai.solver import generate, multiple_choice, system_message, use_tools
from inspect_ai.tool import tool


@tool
def double():
    async def execute(x: int) -> int:
        """Twice a number.

        Args:
            x: the number
        """
        return 2 * x

    return execute


def sums(count=6):
    return MemoryDataset(
        [Sample(input=f"What is {n} + {n}?", target=str(2 * n), id=str(n)) for n in range(count)]
    )


@task
def letters():
    rows = [
        Sample(input=f"Which is {n}?", choices=[str(n), str(n + 1), "0"], target="A", id=f"q{n}")
        for n in range(1, 7)
    ]
    return Task(dataset=MemoryDataset(rows), solver=multiple_choice(), scorer=choice())


@task
def texts():
    solver = [system_message("Reply with a number alone."), generate(temperature=0.25)]
    return Task(dataset=sums(), solver=solver, scorer=match())


@task
def tools():
    return Task(dataset=sums(3), solver=[use_tools(double()), generate()], scorer=match())


@task
def judged():
    return Task(dataset=sums(1), solver=generate(), scorer=model_graded_qa())


@task
def contained():
    return Task(dataset=sums(1), solver=generate(), scorer=match(), sandbox="docker")
