"""`dsv4 plan`: what a run would be, and what a mesh makes of it."""

from .command import call, one_line


def test_a_plan_on_a_mesh():
    found = call("plan", "nano", "mesh=dp=4 ep=4 cp=2")
    said = found.stdout.decode()
    assert found.returncode == 0, found.stderr
    assert "8 processes" in said and "the busiest owner orthogonalises" in said
    alone = call("plan", "nano")
    assert alone.returncode == 0 and b"processes" not in alone.stdout and b"memory" in alone.stdout


def test_a_mesh_that_cannot_be_is_one_line():
    assert "ep must divide dp × cp = 2" in one_line(call("plan", "nano", "mesh=dp=2 ep=3"))
