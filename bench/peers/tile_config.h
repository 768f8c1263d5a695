/* Included before every C++ file of llama.cpp when the peers' environment is made.
 *
 * GCC 12's `_tile_loadconfig` says that it reads 8 of the 64 bytes it is given, so the compiler drops what llama.cpp writes
 * behind them, and the first product on a processor with AMX ends in a segmentation fault. This one reads all of them. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#include <immintrin.h>
static inline void tile_load_configuration(const void *configuration)
{
    __asm__ volatile("ldtilecfg\t%X0" : : "m"(*(const char(*)[64])configuration));
}
#define _tile_loadconfig tile_load_configuration
#endif
