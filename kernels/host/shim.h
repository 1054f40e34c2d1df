// Lets the system's C++ compiler build the .cu files, to run and test them on a CPU. See README.md in the folder above.
#pragma once

#include "cuda.h"
#include "entry.h"
#include "fiber.h"
#include "warp.h"
