import subprocess
import sys
from pathlib import Path

import models
import service

ROOT = Path(__file__).resolve().parents[1]


def test_the_imported_packages_are_ours() -> None:
    assert Path(service.__file__).parent == ROOT / "service"
    assert Path(models.__file__).parent == ROOT / "models"


def test_import_models_loads_neither_torch_nor_pydicom() -> None:
    code = "import sys, models, models.reading, models.image; print(sorted({'torch', 'pydicom'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
