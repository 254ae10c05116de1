"""What a forked process does to become a kernel.

Apart from kernels.py, so that it does without the imports there.
"""

import glob
import multiprocessing
import os
import threading


def run(arguments, env, folder):
    # A session of its own, as Jupyter's kernels have: Ctrl-C is the build's to answer.
    os.setsid()
    from ipykernel.kernelapp import IPKernelApp

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    file = arguments[arguments.index("-f") + 1]
    threading.Thread(target=end_with_the_build, args=(file,), daemon=True).start()
    # With a parent_handle ipykernel does not print how to reach it.
    IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


def end_with_the_build(file):
    """A build that is killed cannot ask its kernels to end, nor remove their files."""
    multiprocessing.parent_process().join()
    for left in glob.glob(os.path.splitext(file)[0] + "*"):
        os.unlink(left)
    os._exit(1)
