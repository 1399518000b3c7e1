"""Training: the loop and all that surrounds it — schedule, optimizer, evaluation, checkpoints, events, the run folder.

`session` is the one place where recipe, data, model, plan and loop meet. How a step is computed is the engine's
business.
"""

from pocketft.libraries import load_libraries

load_libraries()
