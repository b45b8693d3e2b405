#: what    a virtual environment in the folder, pip install into it, run what was installed, compileall, an editable package, pip uninstall
#: needs   python3
#: limit   400
python3 -m venv --copies env > /dev/null && . env/bin/activate && pip install -q --disable-pip-version-check requests rich pytest && pip list --disable-pip-version-check --format=freeze | sort
python -c 'import requests, rich, pytest; print(requests.__version__ != "")' && pip check
mkdir -p pkg/demo tests && echo 'def hello(): return "hello"' > pkg/demo/__init__.py && printf 'from demo import hello\ndef test_it(tmp_path):\n    (tmp_path / "x").write_text(hello())\n    assert (tmp_path / "x").read_text() == "hello"\n' > tests/test_demo.py
PYTHONPATH=pkg pytest -q --basetemp=tmp tests | sed 's/ in .*//' && find . -path ./env -prune -o -name '*.pyc' -print | sed 's/cpython-[0-9]*.*//' | sort
python -m compileall -q -f env/lib/python3*/site-packages/rich && find env/lib/python3*/site-packages/rich -name '*.pyc' | wc -l
echo 'def hello(): return "changed"' > pkg/demo/__init__.py && PYTHONPATH=pkg python -c 'import demo; print(demo.hello())'
pip uninstall -q -y rich && ls env/lib/python3*/site-packages | grep -c '^rich' || true
python3 -m venv env2 && env2/bin/python -c 'import sys; print(sys.prefix != sys.base_prefix)' && readlink env2/lib64 && rm -rf env env2 && ls
