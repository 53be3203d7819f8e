/* The same in C for WASI preview 1: between two pieces of work it asks whether it is to end. */

#include <stdbool.h>
#include <stdio.h>
#include <time.h>

__attribute__((import_module("coracle:lifecycle/termination@0.1.0"), import_name("requested")))
bool termination_requested(void);

int main(void) {
    const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    printf("working until I am asked to end\n");
    fflush(stdout);
    while (!termination_requested())
        nanosleep(&pause, NULL);
    printf("asked to end: finishing what I have begun\n");
    return 0;
}
