/* The extension module: gathers what the other files of the engine give to Python. */
#include "engine.h"

static int engine_exec(PyObject *module)
{
	if (register_crc32c(module) < 0)
		return -1;
	return 0;
}

static PyModuleDef_Slot engine_slots[] = {
	{ Py_mod_exec, (void *)engine_exec },
	{ 0, NULL },
};

static struct PyModuleDef engine_module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "datamover.engine._engine",
	.m_doc = "The C engine of Tapebay. Import its names from datamover.engine.",
	.m_slots = engine_slots,
};

PyMODINIT_FUNC PyInit__engine(void)
{
	return PyModuleDef_Init(&engine_module);
}
