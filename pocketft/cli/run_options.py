"""The options of a training run, for the verbs that train one, show what it would be or what it would read."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, get_type_hints

from pocketft.cli import options
from pocketft.cli.choices import Choices

Verb = Callable[..., None]


def _choices(
    data: options.Data,
    model: options.Model = None,
    memory: options.Memory = None,
    recipe: options.RecipeName = None,
    overrides: options.Overrides = None,
    me: options.Me = None,
    column: options.Column = None,
    secrets: options.SecretsChoice = None,
    seed: options.Seed = None,
    init: options.Init = None,
    output: options.Output = None,
    max_steps: options.MaxSteps = None,
    max_time: options.MaxTime = None,
    resume: options.Resume = False,
    force: options.Force = False,
    device: options.DeviceName = options.Device.auto,
) -> Choices:
    return Choices(
        data=data,
        model=model,
        memory=memory,
        recipe=recipe,
        overrides=overrides or (),
        seed=seed,
        output=output,
        max_steps=max_steps,
        max_time=max_time,
        resume=resume,
        force=force,
        device=device.value,
        me=me,
        column=column,
        secrets=secrets and secrets.value,
        init=init,
    )


def choosing(*names: str) -> Callable[[Verb], Verb]:
    """`verb(choices, …)` as Typer sees it: in the place of `choices` these options, by name, then the verb's own."""
    shared = [parameter for parameter in signature(_choices).parameters.values() if parameter.name in names]

    def with_options(verb: Verb) -> Verb:
        own = list(signature(verb).parameters.values())[1:]
        hints = {**get_type_hints(_choices, include_extras=True), **get_type_hints(verb, include_extras=True)}
        parameters = [parameter.replace(annotation=hints[parameter.name]) for parameter in [*shared, *own]]

        @wraps(verb)
        def command(**given: Any) -> None:
            verb(_choices(**{parameter.name: given.pop(parameter.name) for parameter in shared}), **given)

        described: Any = command  # Typer reads one of the two, depending on its version
        described.__signature__ = signature(verb).replace(parameters=parameters)
        described.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return with_options


run_options = choosing(*signature(_choices).parameters)  # all of them
