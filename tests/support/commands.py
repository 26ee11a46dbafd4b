"""The command `rlvo` run in this process, as a user runs it in a terminal."""

from typer.testing import CliRunner, Result

from rlvo.cli.main import app
from rlvo.errors import RlvoError


def call(*arguments: object) -> Result:
    """The command's result, however it ends."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments: object) -> Result:
    """The result of a command that ends well."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: object) -> str:
    """The one line of a command whose input is at fault."""
    result = call(*arguments)
    assert isinstance(result.exception, RlvoError), result.output
    assert (result.exception.exit_code, "\n" in str(result.exception)) == (2, False)
    return str(result.exception)
