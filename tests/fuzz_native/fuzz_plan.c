/* fuzz_plan SEED RUNS PLAN...: loads mutations of the plans and walks what is accepted, as the
 * launcher does. Prints how many were accepted; a sanitizer ends it at the first mistake. */
#include "plan.h"

#define ROOM (1u << 20)

static uint64_t state;

static uint32_t draw(uint32_t below)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return below ? (uint32_t)(state >> 33) % below : 0;
}

/* A header that fits makes more of the plan interesting. */
static void repair(uint8_t *data, size_t bytes)
{
	uint32_t total = (uint32_t)bytes;

	if (bytes >= sizeof(struct plan_header) && draw(4))
		memcpy(data + offsetof(struct plan_header, total_bytes), &total, sizeof(total));
}

static size_t mutate(uint8_t *data, size_t bytes)
{
	static const uint32_t numbers[] = {0, 1, 7, 8, 9, 255, 0x7fffffff, 0x80000000, 0xffffffff};

	for (uint32_t i = draw(6) + 1; i > 0 && bytes > 8; i--) {
		uint32_t at = draw((uint32_t)bytes), value = numbers[draw(9)];

		switch (draw(6)) {
		case 0:
			data[at] ^= (uint8_t)(1u << draw(8));
			break;
		case 1:
			data[at] = (uint8_t)draw(256);
			break;
		case 2:
			memcpy(data + (at & ~3u) - (at + 4 > bytes ? 4 : 0), &value, sizeof(value));
			break;
		case 3:
			bytes = draw(8) ? bytes - draw(8) : at;
			break;
		case 4: /* an operation less or more, if it happens to begin here */
			at &= ~7u;
			memmove(data + at, data + at + (bytes - at) / 2, (bytes - at) / 2);
			break;
		default:
			if (bytes + 8 <= ROOM) {
				memmove(data + at + 8, data + at, bytes - at);
				bytes += 8;
			}
		}
	}
	repair(data, bytes);
	return bytes;
}

static size_t walk(const struct plan *plan)
{
	const struct op *op = NULL;
	size_t sum = 0;

	while ((op = next_op(plan, op))) {
		const union field *field = op->f;

		for (const char *kind = op_layouts[op->code]; *kind; kind++, field++) {
			for (char **at = field->l; *kind == 'l' && *at; at++)
				sum += strlen(*at);
			if (*kind == 's')
				sum += strlen(field->s);
			for (size_t i = 0; *kind == 'g' && i < field->q * 4; i++)
				sum += (uint8_t)field[1].s[i];
			for (size_t i = 0; *kind == 'b' && i < field->q; i++)
				sum += (uint8_t)field[1].s[i];
		}
	}
	return sum + strlen(*plan->last[OP_EXEC]->f[0].l);
}

static size_t read_plan(const char *path, uint8_t *data)
{
	FILE *file = fopen(path, "rb");
	size_t bytes = file ? fread(data, 1, ROOM / 2, file) : 0;

	if (file)
		fclose(file);
	return bytes;
}

int main(int argc, char **argv)
{
	uint8_t *seed = malloc(ROOM), *data = malloc(ROOM);
	long runs = argc > 3 ? atol(argv[2]) : 0, accepted = 0;
	size_t sum = 0;
	int fd = memfd_create("plan", 0);

	if (!seed || !data || fd < 0 || runs <= 0)
		return 2;
	state = strtoull(argv[1], NULL, 10);
	for (long run = 0; run < runs; run++) {
		size_t bytes = read_plan(argv[3 + run % (argc - 3)], seed);
		struct plan plan;

		memcpy(data, seed, bytes);
		if (run >= argc - 3)
			bytes = mutate(data, bytes);
		if (ftruncate(fd, 0) < 0 || pwrite(fd, data, bytes, 0) != (ssize_t)bytes)
			return 2;
		if (plan_load(&plan, fd) == 0) {
			accepted++;
			sum += walk(&plan);
		}
		plan_free(&plan);
	}
	free(seed);
	free(data);
	printf("%ld accepted, %zu bytes\n", accepted, sum);
	return 0;
}
