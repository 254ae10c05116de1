"""What a forked process does to become a kernel; see kernels.py, whose imports it does without."""

import multiprocessing
import os
import threading


def run(arguments, env, folder):
    from ipykernel.kernelapp import IPKernelApp

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    threading.Thread(target=end_with_the_build, daemon=True).start()
    # told that it has a parent, it does not print how to reach it
    IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


def end_with_the_build():
    """A build that is killed cannot ask its kernels to end."""
    multiprocessing.parent_process().join()
    os._exit(1)
