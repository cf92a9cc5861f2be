"""The table of methods: order, roles, colours, and names that are refused."""

import pytest

from common.errors import UserError
from common.methods import METHOD_COLOUR, Method, Methods


def table():
    return Methods(
        Method("base", "Base", "baseline"),
        Method("mine", "Mine", "method"),
        Method("mine-less", "Mine, less", "ablation"),
    )


def test_an_unknown_name_is_refused_with_the_nearest():
    methods = table()
    with pytest.raises(UserError, match="unknown method 'mien'; did you mean mine"):
        methods["mien"]
    with pytest.raises(UserError):
        methods.label("nobody")
    assert "mine" in methods and "nobody" not in methods and methods.get("nobody") is None


def test_roles_and_what_is_of_the_paper():
    methods = table()
    methods.add(Method("new", "New", "added"))
    assert methods.having("ablation", "baseline") == ["base", "mine-less"]
    assert methods.of_the_paper == ["base", "mine", "mine-less"] and len(methods) == 4


def test_an_added_method_changes_no_colour():
    methods = table()
    before, dashes = methods.colours(), methods.dashes()
    methods.add(Method("new", "New", "added"))
    after = methods.colours()
    assert {k: after[k] for k in before} == before and len(set(after.values())) == 4
    assert {k: methods.dashes()[k] for k in before} == dashes
    assert before["mine"] == METHOD_COLOUR


def test_a_name_or_label_is_there_once():
    for twin in (Method("base", "Other", "added"), Method("other", "Base", "added")):
        with pytest.raises(ValueError, match="two methods"):
            table().add(twin)
