/* The lock podman uses, callable from Python at the least possible cost: an array of robust,
 * process-shared pthread mutexes in a shared file mapping. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

static pthread_mutex_t *mutexes;
static Py_ssize_t count;

static PyObject *make(PyObject *module, PyObject *args)
{
    const char *path;
    pthread_mutexattr_t kind;
    (void)module;
    if (!PyArg_ParseTuple(args, "sn", &path, &count))
        return NULL;
    size_t bytes = (size_t)count * sizeof(pthread_mutex_t);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
    mutexes = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mutexes == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    for (Py_ssize_t i = 0; i < count; i++)
        pthread_mutex_init(&mutexes[i], &kind);
    pthread_mutexattr_destroy(&kind);
    Py_RETURN_NONE;
}

static Py_ssize_t checked(PyObject *arg)
{
    Py_ssize_t index = PyNumber_AsSsize_t(arg, PyExc_IndexError);
    if (index >= 0 && index < count)
        return index;
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_IndexError, "no such lock");
    return -1;
}

static PyObject *acquire_nowait(PyObject *module, PyObject *arg)
{
    Py_ssize_t index = checked(arg);
    (void)module;
    if (index < 0)
        return NULL;
    int failed = pthread_mutex_trylock(&mutexes[index]);
    if (failed == EOWNERDEAD)
        pthread_mutex_consistent(&mutexes[index]);
    return PyLong_FromLong(failed == 0 ? 1 : failed == EOWNERDEAD ? 2 : 0);
}

static PyObject *release(PyObject *module, PyObject *arg)
{
    Py_ssize_t index = checked(arg);
    (void)module;
    if (index < 0)
        return NULL;
    errno = pthread_mutex_unlock(&mutexes[index]);
    if (errno != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"make", make, METH_VARARGS, NULL},
    {"acquire_nowait", acquire_nowait, METH_O, NULL},
    {"release", release, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "robust_mutex",
                                        .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_robust_mutex(void) { return PyModule_Create(&definition); }
