// lifter._C: what Python needs of the library that is not an op.

#include <pybind11/pybind11.h>

#include "capability.h"

namespace py = pybind11;

static py::dict build_info() {
  using namespace py::literals;
  return py::dict("compiler"_a = LIFTER_COMPILER, "torch"_a = LIFTER_TORCH,
                  "capabilities"_a = py::str(LIFTER_CAPABILITIES).attr("split")(","), "cuda_missing"_a = LIFTER_CUDA_MISSING,
                  "sanitize"_a = bool(LIFTER_SANITIZE));
}

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &build_info, "How the library was built.");
  m.def("cpu_capability", &lifter::cpu_capability, "The capability that kernels run with: baseline, avx2, ...");
  m.def("set_cpu_capability", &lifter::set_cpu_capability, py::arg("name").none(false),
        "Make kernels run with this capability.");
  m.def("max_cpu_capability", &lifter::max_cpu_capability, "The best capability of this machine and build.");
  m.def("time_exponentials", &lifter::time_exponentials, py::arg("count"), py::call_guard<py::gil_scoped_release>(),
        "Seconds that the kernels' vector code takes for this many exponentials: the bound of a scan.");
}
