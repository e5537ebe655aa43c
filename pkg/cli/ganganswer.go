package cli

// Verdicts of a GangAnswer, besides VerdictInvalid, VerdictEnded, VerdictOtherScheduler, VerdictFits and VerdictDoesNotFit.
const (
	// VerdictNotGang: the PodGroup says that its pods are scheduled by themselves.
	VerdictNotGang = "NotGang"
	// VerdictIncomplete: fewer members than the minimum exist that may be placed.
	VerdictIncomplete = "Incomplete"
	// VerdictPlaced: every member has a node.
	VerdictPlaced = "Placed"
)

// GangAnswer says why a gang waits, or where it is: `weft why podgroup/NAME -o json`. Made by [NewGangAnswer].
type GangAnswer struct {
	// APIVersion is cli.weft.sh/v1.
	APIVersion string `json:"apiVersion"`
	// Kind is GangAnswer.
	Kind string `json:"kind"`
	// Namespace and PodGroup name the gang, Source is the API group of its PodGroup.
	Namespace string `json:"namespace"`
	PodGroup  string `json:"podGroup"`
	Source    string `json:"source"`
	// Verdict is Invalid, NotGang, Ended, OtherScheduler, Incomplete, Placed, Fits or DoesNotFit; of those that apply, the first
	// in this order.
	Verdict string `json:"verdict"`
	// Message is the verdict in a sentence.
	Message string `json:"message"`
	// Reason is why members wait, one of the reasons listed in docs/cli.md; empty when none is in the way. Text says it in
	// words, Detail has the figures, Advice what would have to change, Event what can make it go away besides, and Resolvable
	// that waiting for other pods can. All are empty and false without a reason.
	Reason     string `json:"reason"`
	Text       string `json:"text"`
	Detail     string `json:"detail"`
	Advice     string `json:"advice"`
	Event      string `json:"event"`
	Resolvable bool   `json:"resolvable"`
	// WaitsFor says what a gang waits for that nothing seen here stands in the way of; empty otherwise.
	WaitsFor string `json:"waitsFor"`
	// SchedulerName and Priority are those of the first member; empty and 0 without members.
	SchedulerName string `json:"schedulerName"`
	Priority      int    `json:"priority"`
	// MinMembers is how many members must start together; 0 when the PodGroup does not say.
	MinMembers int `json:"minMembers"`
	// TopologyRequired and TopologyPreferred are the levels that it asks for; empty for none.
	TopologyRequired  string `json:"topologyRequired"`
	TopologyPreferred string `json:"topologyPreferred"`
	// OnMemberLost, OnPartialStart and PartialGraceSeconds are its policies; empty and 0 where the PodGroup means nothing.
	OnMemberLost        string `json:"onMemberLost"`
	OnPartialStart      string `json:"onPartialStart"`
	PartialGraceSeconds int64  `json:"partialGraceSeconds"`
	// Phase is what the controller says of it, or else what its pods show; StatusMessage is the controller's.
	Phase         string `json:"phase"`
	StatusMessage string `json:"statusMessage"`
	// Counts are its pods by state.
	Counts MemberCounts `json:"counts"`
	// Missing names members that do not exist, as far as the indices of Jobs tell.
	Missing []string `json:"missing"`
	// Shapes are the members that are alike, by what they ask for.
	Shapes []Shape `json:"shapes"`
	// Nodes is the number of nodes that were looked at: those that take a member by everything but what is free there.
	Nodes int `json:"nodes"`
	// Surplus is how many members get no place by the plan, which the gang can do without.
	Surplus int `json:"surplus"`
	// Used are, for each topology level from the narrowest to the widest, the domains that the members are in, or would be by
	// the plan. Levels for which a node of theirs has no label are left out.
	Used []LevelUse `json:"used"`
	// Level is the level that it asks for, the required one before the preferred; empty for none. Domains are its domains, those
	// with most room first, and at most 32 of them.
	Level   string   `json:"level"`
	Domains []Domain `json:"domains"`
	// Pods are all its pods in the order of their ranks.
	Pods []Member `json:"pods"`
	// Said is what the scheduler last said of a member that waits; null when it said nothing yet.
	Said *Said `json:"said"`
	// NotChecked are things that members ask for and that the scheduler checks but this command does not, in words.
	NotChecked []string `json:"notChecked"`
}

// MemberCounts are the pods of a gang by state.
type MemberCounts struct {
	// Members go on: Gated, Pending and Bound ones.
	Members int `json:"members"`
	// Gated ones have scheduling gates and no node, Pending ones have neither, Bound ones have a node. Running are those of
	// them that run.
	Gated   int `json:"gated"`
	Pending int `json:"pending"`
	Bound   int `json:"bound"`
	Running int `json:"running"`
	// Succeeded, Failed and Deleting ones do not go on.
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Deleting  int `json:"deleting"`
}

// Shape is members that ask for the same.
type Shape struct {
	// Pod is the first of them, Members how many there are.
	Pod     string `json:"pod"`
	Members int    `json:"members"`
	// Asks, Products, MilliCPU and MemoryMiB are as in Answer.
	Asks      []ContainerAsk `json:"asks"`
	Products  []string       `json:"products"`
	MilliCPU  int64          `json:"milliCPU"`
	MemoryMiB int64          `json:"memoryMiB"`
}

// LevelUse is what is used of a topology level.
type LevelUse struct {
	// Level is its key.
	Level string `json:"level"`
	// Domains are the names of the domains, sorted.
	Domains []string `json:"domains"`
}

// Domain is one domain of a topology level.
type Domain struct {
	// Name is the value of the level.
	Name string `json:"name"`
	// Nodes is how many of its nodes were looked at, GPUs and IdleGPUs are the GPUs that those have.
	Nodes    int `json:"nodes"`
	GPUs     int `json:"gpus"`
	IdleGPUs int `json:"idleGPUs"`
	// Members is how many members of the gang are there.
	Members int `json:"members"`
	// Room is how many of the members without a place it has places for, were it the only domain.
	Room int `json:"room"`
}

// Member is a pod of a gang.
type Member struct {
	// Pod is its name.
	Pod string `json:"pod"`
	// State is gated, pending, bound, running, succeeded, failed or deleting.
	State string `json:"state"`
	// Node is where it is; empty while it has none.
	Node string `json:"node"`
	// WouldGoTo is the node that it has in a plan made now, of which the scheduler knows nothing; empty without one.
	WouldGoTo string `json:"wouldGoTo"`
	// Domain is the domain, of the answer's level, of the node that it is on or would go to; empty without one.
	Domain string `json:"domain"`
}
