"""Sphinx extension: the kernels that execute pages use no TCP ports, and begin quickly.

Pages are executed side by side.  By Jupyter's own way a kernel is given TCP ports that were found
free and let go again: another process may take one in between, and the page fails.  These have
Unix sockets instead, each named after a file of the kernel's own.  And each kernel would import
for itself what most pages use, three seconds of a processor; these are forked from a process that
has imported it.
"""

import multiprocessing
import os
import sys
import tempfile
import uuid

import forked_kernel
import myst_nb.core.execute.inline as executing
import zmq
from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Type, default

# What the kernels find imported.  None of it draws random numbers by itself, and of threads it
# has OpenBLAS's alone, which that begins anew in what is forked.
IMPORTED = ("ipykernel.kernelapp", "ipywidgets", "matplotlib.pyplot", "sympy", "torch")
FEW = 5  # up to so many pages Sphinx reads in one process; then importing it all is no gain


def setup(app):
    # The system allows the name of a socket about a hundred bytes.
    longest = len(os.fsencode(tempfile.gettempdir() + "/kernel-12345678-ipc-5"))
    if os.name == "posix" and longest <= zmq.IPC_PATH_MAX_LEN:
        executing.ModifiedNotebookClient = Client
        app.connect("env-before-read-docs", fork_where_there_are_many)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def fork_where_there_are_many(app, env, pages):
    # Elsewhere the system's own libraries may not bear that a process is forked that uses them.
    Manager.forked = sys.platform == "linux" and len(pages) > FEW


class Manager(AsyncKernelManager):
    forked = False

    @default("transport")
    def _unix_sockets(self):
        return "ipc"

    @default("connection_file")
    def _one_of_its_own(self):
        """Jupyter names the kernel's sockets after it, and removes all of them in the end."""
        handle, name = tempfile.mkstemp(".json", "kernel-")
        os.close(handle)
        return name

    async def _async_pre_start_kernel(self, **given):
        if self.forked:
            self.kernel_id = str(uuid.uuid4())
            self.provisioner = Forked(
                kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
            )
        return await super()._async_pre_start_kernel(**given)


class Client(executing.ModifiedNotebookClient):
    kernel_manager_class = Type(Manager)


class Forked(LocalProvisioner):
    """A kernel that is forked from a process that has imported what most pages use."""

    async def launch_kernel(self, cmd, env, cwd=".", **given):
        if cmd[0] != sys.executable or "ipykernel_launcher" not in cmd:  # of another environment
            return await super().launch_kernel(cmd, env=env, cwd=cwd, **given)
        context = multiprocessing.get_context("forkserver")
        # Without __main__ each kernel would run the build's script again, to import from it.
        context.set_forkserver_preload(["__main__", *IMPORTED])
        # A kernel sets it for its pages; here pyplot is imported before there is a kernel.
        os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        told = (cmd[cmd.index("ipykernel_launcher") + 1 :], env, os.path.abspath(cwd))
        process = context.Process(target=forked_kernel.run, args=told, daemon=True)
        process.start()
        self.process, self.pid, self.pgid = Process(process), process.pid, process.pid
        return self.connection_info


class Process:
    """What a provisioner asks of its process, as ``subprocess`` would answer."""

    stdin = stdout = stderr = None

    def __init__(self, process):
        self.kill, self.terminate, self.wait = process.kill, process.terminate, process.join
        self.process = process

    def poll(self):
        return self.process.exitcode

    def send_signal(self, signal):
        if self.poll() is None:
            os.kill(self.process.pid, signal)
