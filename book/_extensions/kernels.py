"""Sphinx extension: the kernels that execute pages are reached through files, and begin quickly.

Pages are executed side by side.  By Jupyter's own way a kernel is given TCP ports that were found
free and let go again: another process may take one in between, and the page fails.  And each
kernel would import for itself what most pages use, three seconds of a processor.
"""

import multiprocessing
import os
import tempfile
import uuid

import forked_kernel
import myst_nb.core.execute.inline as executing
import zmq
from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Type, default

# What the kernels find imported.  None of it may start threads or draw random numbers by itself.
IMPORTED = ("ipykernel.kernelapp", "ipywidgets", "matplotlib.pyplot", "sympy", "torch")
FEW = 5  # pages that one process executes: for these a kernel imports what it uses


def setup(app):
    # no such files on Windows; elsewhere the system allows them some hundred characters
    if len(tempfile.gettempdir() + "/kernel-12345678-ipc-5") <= zmq.IPC_PATH_MAX_LEN:
        executing.ModifiedNotebookClient = Client
        app.connect("env-before-read-docs", begin_quickly_where_there_are_many)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def begin_quickly_where_there_are_many(app, env, pages):
    Manager.forked = len(pages) > FEW


class Manager(AsyncKernelManager):
    """A kernel that is reached through files."""

    forked = False

    @default("transport")
    def _files(self):
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
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", *IMPORTED])
        os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        arguments = cmd[cmd.index("-m") + 2 :]
        process = context.Process(
            target=forked_kernel.run, args=(arguments, env, os.path.abspath(cwd))
        )
        process.start()
        self.process, self.pid = Process(process), process.pid
        return self.connection_info


class Process:
    """What a provisioner asks of its process, as ``subprocess`` would answer."""

    stdin = stdout = stderr = None

    def __init__(self, process):
        self.send_signal = lambda signal: os.kill(process.pid, signal)
        self.kill, self.terminate, self.wait = process.kill, process.terminate, process.join
        self.poll = lambda: process.exitcode
