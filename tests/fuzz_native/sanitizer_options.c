/* What the sanitizers of a monitor are told: nobody can set an environment for it. A monitor is
 * not dumpable, so that leaks cannot be looked for; its stderr is /dev/null. */
#define LOG "log_path=/tmp/podrt-monitor.sanitizer"

const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void)
{
	return "detect_leaks=0:abort_on_error=1:" LOG;
}

const char *__ubsan_default_options(void)
{
	return "print_stacktrace=1:abort_on_error=1:" LOG;
}
