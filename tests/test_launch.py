"""From data to result file; the command line's tests look at the file of a whole run."""

from collections.abc import Callable
from dataclasses import replace

from emgscribe.launch import data_hash
from emgscribe.store import StoredSession


def test_data_hash_is_of_the_content_not_of_the_order(make_stored: Callable[..., StoredSession]) -> None:
    first = make_stored(keys=[(1, 5), (2, 9)])
    second = replace(first, name="other")
    both = data_hash([first, second])
    assert both == data_hash([second, first])
    assert both != data_hash([first, first])
    assert both != data_hash([first])
    assert data_hash([replace(first, content="other samples")]) != data_hash([first])
