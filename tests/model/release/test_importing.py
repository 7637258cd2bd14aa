from pathlib import Path
from mova_core.model.release.importing import ImportOptions, import_release

def test_try(release, profile, tmp_path):
    out = import_release(release, tmp_path/"out", ImportOptions(profile=profile))
    import subprocess
    print(subprocess.run(["find", str(out), "-type", "f"], capture_output=True, text=True).stdout)
    print((out/"config.json").read_text()[:3000])
