package replay

import "weft.sh/weft/pkg/fit"

// learning is the strategy, which learns from what arrives as plugin GPUFit does.
type learning struct {
	name   string
	recent *fit.Recent
	memo   *fit.Memo
}

// mixWindow is how many requests it learns from, as by default in plugin GPUFit.
const mixWindow = 4096

func (l *learning) open(name string) error {
	*l = learning{name: name, recent: fit.NewRecent(mixWindow)}
	return l.renew()
}

func (l *learning) renew() error {
	s, err := fit.NewStrategy(l.name, l.recent.Mix())
	if err == nil {
		l.memo = fit.NewMemo(s)
	}
	return err
}

// observe sees so many pods arrive that ask for the same.
func (l *learning) observe(c fit.Class, pods int) error {
	stale := false
	for range pods {
		stale = l.recent.Observe(c) || stale
	}
	if stale {
		return l.renew()
	}
	return nil
}
