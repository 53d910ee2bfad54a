/* Faults of the device that the shim's runtime plays, for tests of the way out. What a test wants is in WEFT_SIMT_FAULT,
 * or in a file that WEFT_SIMT_FAULT_FILE names, which is taken away when it is seen: so a test says when, and the program
 * that is started again finds none.
 *
 *     POINT[:N][:hang]    the Nth call of that point (1) from there on; it fails, or never comes back
 *
 * As on hardware, a device that failed fails every call from then on. Points: the names in fault.c. */
#pragma once

#define FAULT_CODE 700

enum fault_point {
    FAULT_OPEN,   /* counting devices */
    FAULT_ALLOC,  /* device memory */
    FAULT_IN,     /* a copy to the device, on the stream of steps */
    FAULT_OUT,    /* a copy back */
    FAULT_SIDE,   /* a copy to the device on another stream: constants, adapters */
    FAULT_LAUNCH, /* a graph */
    FAULT_OP,     /* an operation of a graph that runs */
    FAULT_WAIT,   /* waiting for the stream of steps */
    FAULT_POINTS
};

int fault_at(enum fault_point p); /* 0, or FAULT_CODE; or it does not return */
