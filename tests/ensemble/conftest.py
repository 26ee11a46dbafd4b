import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for `stored_predictions`, which is no test
