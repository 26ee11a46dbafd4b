/* Preloaded into a program and all that it starts: sets the clock that they read.

   CLOCK_OFFSET names a file of 8 bytes, the seconds to add, a signed number. It is mapped, so a change of it is a jump
   of the clock in every process at once. The clock that only goes forward (CLOCK_MONOTONIC) stays, as on a machine
   whose clock is set. The kernel knows of nothing, so deadlines on the clock are told to it in its own time, and it
   stamps files with that. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NOT_SINCE_START 1000000000 /* s: a deadline that is later than this is not on a clock that begins at start-up */

static const int64_t zero = 0;
static const volatile int64_t *offset = &zero;

__attribute__((constructor)) static void map_offset(void) {
    const char *name = getenv("CLOCK_OFFSET");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        offset = mapped;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int failed = (int)syscall(SYS_gettimeofday, now, zone);
    if (!failed)
        now->tv_sec += *offset;
    return failed;
}

time_t time(time_t *also) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (also)
        *also = now.tv_sec;
    return now.tv_sec;
}

static struct timespec of_kernel(const struct timespec *deadline) {
    struct timespec real = *deadline;
    if (real.tv_sec > NOT_SINCE_START)
        real.tv_sec -= *offset;
    return real;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline) {
    static int (*wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!wait) /* of two functions of this name, the one without a version is the old one, of another layout */
        wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!wait)
        wait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec real = of_kernel(deadline);
    return wait(condition, mutex, &real);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *deadline) {
    static int (*wait)(sem_t *, const struct timespec *);
    if (!wait)
        wait = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec real = of_kernel(deadline);
    return wait(semaphore, &real);
}
