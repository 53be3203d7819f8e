/* A command for WASI preview 1 in C: prints its arguments and one variable, and ends with the exit
   code that its last argument asks for. Coracle adapts such a module to a component when it takes it in. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char EXIT[] = "--exit=";

int main(int argc, char **argv) {
    const char *greeting = getenv("GREETING");
    printf("%s from C\n", greeting ? greeting : "Hello");
    int code = 0;
    for (int i = 1; i < argc; i++) {
        printf("argument %d: %s\n", i, argv[i]);
        if (strncmp(argv[i], EXIT, sizeof EXIT - 1) == 0) {
            code = atoi(argv[i] + sizeof EXIT - 1);
        }
    }
    return code;
}
