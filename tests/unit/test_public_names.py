import subprocess
import sys

import umrgen
from umrgen import errors


def test_every_public_name_can_be_imported() -> None:
    for name in umrgen.__all__:
        assert getattr(umrgen, name) is not None
    assert sorted(umrgen.__all__) == umrgen.__all__
    assert set(umrgen._MODULES) == set(umrgen.__all__)


def test_every_error_is_public() -> None:
    assert {name for name in errors.__all__ if name[0].isupper()} <= set(umrgen.__all__)


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    kinds = [errors.UmrgenError]
    for kind in kinds:
        kinds += [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    for kind in kinds:
        assert kind.__name__ in (errors.__doc__ or ""), kind
        assert str(kind()) == (kind.__doc__ or "").strip()


def test_importing_the_package_imports_no_module() -> None:
    code = (
        "import sys, umrgen; print(sorted(m for m in sys.modules if m.startswith('umrgen')), 'httpx2' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['umrgen'] False"
