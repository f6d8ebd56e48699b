/* The extension module: gathers what the other files of the engine give to Python. */
#include "engine.h"

static int (*const registrations[])(PyObject *module) = {
	register_crc32c,
	register_buffer,
	register_connection,
	register_small_files,
	register_instruments,
	register_segment,
	register_reed_solomon,
	register_protection,
	register_lzo,
	register_bytes,
	register_file,
	register_saver,
};

static int engine_exec(PyObject *module)
{
	static bool loaded;

	/* The types live in static variables: a second copy, in a subinterpreter, would mix the objects of two GILs. */
	if (loaded) {
		PyErr_SetString(PyExc_ImportError, "the engine can be loaded once in a process");
		return -1;
	}
	loaded = true;
	for (size_t i = 0; i < sizeof registrations / sizeof *registrations; i++)
		if (registrations[i](module) < 0)
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
