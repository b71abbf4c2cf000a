/* Laid over a program's C library (LD_PRELOAD): the clock of the day goes an hour ahead and back again, every other second.
   The clocks that only count (CLOCK_MONOTONIC and its like) are as they were. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t swing(void)
{
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return now.tv_sec % 2 ? 3600 : 0;
}

int clock_gettime(clockid_t id, struct timespec* at)
{
    int status = syscall(SYS_clock_gettime, id, at);
    if (status == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += swing();
    return status;
}

int gettimeofday(struct timeval* restrict at, void* restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t* at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
